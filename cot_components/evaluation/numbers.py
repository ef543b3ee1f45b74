r"""Read numbers in text, in full or not at all.

| spelling                                                    | read as                                               |
|-------------------------------------------------------------|-------------------------------------------------------|
| `-5`, U+2212 and 5, `-$5`, `$-5`, `minus 5`, `+5`           | with the sign, before or after a currency             |
| `9,500` `9{,}500` `9\,500` `9'500` `9_500`, a thin or       | groups of three                                       |
| no-break space                                              |                                                       |
| `1,234.5` `1.234,5` `1.234.567,8`                           | a point is decimal; a comma only behind groups that   |
|                                                             | something else makes                                  |
| `1.2e-3` `1.2 \times 10^{3}`                                | with the exponent, up to 999                          |
| `3/4` `\frac{3}{4}` `1 1/2` `1\frac{1}{2}`                  | fractions; a whole number before a proper one is added |
| `50%` `50 \%` `50 percent`                                  | the value: 0.5, which is not 50                       |
| `3 million` `2 thousand`                                    | the value                                             |
| `9 500` with an ordinary blank, `9,50` `1.234.567` `1,2,3`  | None: nobody knows                                    |
| `3:45` `2024-01-05` `1.2.3` `3-5` `8 - 3` `2x` `5^n` `3rd`  | None: several numbers, or part of an expression       |
| `007` `1/0` `1e1000`, more than 300 digits                  | None                                                  |

Digits of any script are read. In running text a unit may follow (`5 kg`, `5kg`, `5-year`), and digits after letters
(`x2`, `GPT-4`) belong to a name.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS, MAX_EXPONENT = 300, 999

_SCALES = {
    "%": Fraction(1, 100),
    "percent": Fraction(1, 100),
    "per cent": Fraction(1, 100),
    "\u2030": Fraction(1, 1000),
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
    "lakh": Fraction(10**5),
    "crore": Fraction(10**7),
}
_UNIT = re.compile(
    r"[cdmk]?m|in|ft|yd|mi|[mk]?g|t|lbs?|oz|[mcd]?[lL]|m?s|secs?|mins?|h|hrs?|d|yrs?|y|[kMG]?Hz|[kM]?Wh?|k?V|m?A|N|k?J"
    r"|k?cal|[KCF]|k?Pa|mph|k[mp]h|mol|px|pt"
)

_B = r"[^\S\n]{0,4}"
_LETTER = "A-Za-z\u00b5\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"
_GROUPED = "|".join(rf"[1-9]\d{{0,2}}(?:{mark}\d{{3}})+(?!\d)(?:[.,]\d+)?" for mark in ("_", "'", "\u2009"))
_PLAIN = r"\d+(?:\.\d+)?|\.\d+"
_DECIMAL = rf"(?:[1-9]\d{{0,2}}(?:,\d{{3}})+(?!\d)(?:\.\d+)?|{_GROUPED}|[1-9]\d{{0,2}}(?:\.\d{{3}})+,\d+|{_PLAIN})"
_TEN = rf"10{_B}(?:\^|\*\*){_B}\{{?{_B}(?P<power>[-+]?\d+){_B}\}}?"
_SYMBOL = r"(?:US|CA|AU|NZ|HK|[ACSR])?[$\u00a2-\u00a5\u20a0-\u20cf\ufdfc\uff04\uffe1\uffe5]"
_MONEY = rf"(?:{_SYMBOL}|\b(?:USD|EUR|GBP|CHF|JPY|CNY|INR|Rs\.?)(?![A-Za-z]))"
_NUMBER = re.compile(
    rf"""(?P<sign>(?:[-+]|\b(?:minus|negative|plus)\b){_B})?
    (?P<money>{_MONEY}{_B})?
    (?P<inner>[-+])?
    (?:(?P<whole>{_DECIMAL})[^\S\n]{{1,4}}(?:and{_B})?(?P<p>\d+){_B}/{_B}(?P<q>\d+)
      |(?P<top>{_DECIMAL}){_B}/{_B}(?P<bottom>{_DECIMAL})
      |(?:(?P<factor>{_DECIMAL}){_B}[\u00d7\u00b7*x]{_B})?{_TEN}
      |(?P<plain>{_DECIMAL})(?:e(?P<exponent>[-+]?\d+))?)
    (?P<scale>{_B}[%\u2030]|{_B}\b(?:{"|".join(n for n in _SCALES if n.isascii() and n != "%")})\b)?""",
    re.VERBOSE | re.IGNORECASE,
)

_HIGH = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_MINUS = dict.fromkeys([*range(0x2010, 0x2014), 0x2212, 0xFE63, 0xFF0D], "-")
_SIMPLE = rf"(?:\{{\s*([-+]?{_DECIMAL})\s*\}}|(\d))"
_FRACTION = r"<([-+]?[\d.,_'\u2009]+/[\d.,_'\u2009]+)>"
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "\u00d7"),
    (re.compile(r"\\div(?![A-Za-z])"), "\u00f7"),
    (re.compile(r"\\(?:approx|leq?|geq?|sim|to|[Rr]ightarrow|implies)(?![A-Za-z])"), "="),
    (re.compile(r"\\(?:boxed|fbox|mbox|text[a-z]*|math[a-z]+|left|right|q?quad)(?![A-Za-z])"), " "),
    (re.compile(r"(?:\\[,;: ])?\\([$%])"), r"\1"),
    (re.compile(r"\{,\}|,\\!(?=\d)"), ","),
    (re.compile(r"(?<=\d)(?:\\[,;: ]|~|[\u00a0\u2007\u2009\u202f])(?=\d{3}(?!\d))"), "\u2009"),
    (re.compile(r"(?<=\d)\u2019(?=\d)"), "'"),
    (re.compile(rf"\\[dtc]?frac\s*{_SIMPLE}\s*{_SIMPLE}"), r"<\1\2/\3\4>"),
    (re.compile(_FRACTION + r"(?=[\d<])"), r"\1" + "\u00d7"),
    (re.compile(rf"(?<=[{_LETTER})\]}}]){_FRACTION}"), "\u00d7" + r"\1"),
    (re.compile(rf"(?<=\d){_FRACTION}"), r" \1"),  # `1\frac{1}{2}`
    (re.compile(_FRACTION), r"\1"),
)

_NAME = re.compile(rf"[{_LETTER}](?:_|\^)?\{{?-?\Z|_\{{?\Z")
_JOINED = re.compile(
    r"\d[^\S\n]*(?:(?<=[^\S\n]):[^\S\n]*)?\Z|\d(?:[.,:'_%$\u2009-]|\.\.+|\u2026|\\[,;:! ])\Z"  # `1,|2`, `9 |500`
    r"|[-+/^\u00d7\u00f7\u00b7\u00b1\u2213\u221a\u221b\u221c](?:[({\[$]|[^\S\n]){0,4}\Z"
    rf"|[\d)\]}}%][^\S\n]*\*{{1,2}}[^\S\n]*\Z|[{_LETTER}]\*\Z|\d[^\S\n]*x[^\S\n]*\Z"
    r"|[)\]}]\{?\Z|\\[A-Za-z]+[^\S\n]*(?:\[[^\]]*\])?\{?\Z|[A-Za-z]\.\Z"
)
_OPERAND = re.compile(r"[\d)\]}%][^\S\n]*\Z")
_OPENING = re.compile(r"[=<>\u2248\u2264\u2265:,(\[{$][^\S\n]*\Z")
_GOES_ON = re.compile(
    r"[.,:'_\u2009]?\d|[^\S\n]*(?:[\u221a\u03c0\u00b1\u2213^](?!\{?\\circ)|[+\u00d7\u00f7\u00b7][^\S\n]*[\w(\\$])"
    r"|\*(?=[\w(\\])|[^\S\n]\*[^\S\n]+[\w(\\]|[^\S\n]*/[^\S\n]*[(\\]|[^\S\n]*-[^\S\n]*(?:[a-z]\b|[(\\])"
    r"|[^\S\n]*\\(?!(?:circ|degree|end|unit|si|in|n)(?![A-Za-z]))[A-Za-z]|\((?![A-Za-z]{2})|[(\[]?\d"
    r"|[^\S\n]*(?:[ap]\.?m\b|sqrt|pi\b|[xyzni]\b)|[\u4e07\u5104\u4ebf\u5146\u5343\u767e\u5341]"
    r"|[^\S\n]*-?(?:squared|cubed|factorial|halves|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth"
    r"|thousandth|millionth)s?)\b|\s+and\s+(?:a|one)\s+(?:half|third|quarter|fourth)\b"
)
_MAGNITUDE = re.compile(r"[^\S\n]*(?:k|m|b|bn|mn|mm|tn|mio|mrd)\b", re.IGNORECASE)
_GLUED = re.compile(rf"[{_LETTER}]+")


def read_number(text: str) -> Fraction | None:
    """The value of a text that is a single number, possibly with a currency; None for any other text."""
    found = _NUMBER.fullmatch(_plainly(text).strip())
    return _value(found) if found else None


def last_number(text: str) -> str | None:
    """The last number of a text, without its currency or unit; None if it cannot be read in full."""
    plain = _plainly(text)
    for found in reversed(list(_NUMBER.finditer(plain))):
        before, after = plain[max(0, found.start() - 40) : found.start()], plain[found.end() :][:40]
        if not found["money"] and _NAME.search(before):
            continue
        whole = not _begins_inside(found, before) and not _ends_inside(found, after)
        return _spelled(found) if whole and _value(found) is not None else None
    return None


def written(number: Fraction) -> str:
    """The canonical spelling of a value: a decimal if it terminates, else `p/q`."""
    rest, twos_and_fives = number.denominator, [0, 0]
    for index, prime in enumerate((2, 5)):
        while rest % prime == 0:
            rest //= prime
            twos_and_fives[index] += 1
    if rest > 1:
        return str(number)
    places = max(twos_and_fives)
    digits = str(abs(number.numerator) * 10**places // number.denominator).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if number < 0 else text


def _value(found: re.Match[str]) -> Fraction | None:
    """The value of a match of `_NUMBER`, or None if its parts do not form a number."""
    part = {name: text for name, text in found.groupdict().items() if text is not None}
    decimals = ("whole", "p", "q", "top", "bottom", "factor", "plain")
    if ("sign" in part and "inner" in part) or any(_is_code(part[name]) for name in decimals if name in part):
        return None
    exponent = part.get("power", part.get("exponent", "0"))
    power = int(exponent) if len(exponent) <= MAX_DIGITS else MAX_EXPONENT + 1
    bottom = _decimal(part.get("q", part.get("bottom", "1")))
    if abs(power) > MAX_EXPONENT or bottom == 0:
        return None
    top = _decimal(part.get("p", part.get("top", part.get("plain", part.get("factor", "1")))))
    whole = _decimal(part.get("whole", "0"))
    if "whole" in part and (top >= bottom or whole.denominator > 1):
        return None
    sign = (part.get("sign", "") + part.get("inner", "")).strip().lower()
    scale = _SCALES[" ".join(part.get("scale", "").lower().split())] if "scale" in part else Fraction(1)
    value = (whole + top / bottom) * Fraction(10) ** power * scale
    return -value if sign in ("-", "minus", "negative") else value


def _is_code(digits: str) -> bool:
    """Whether this is not a number but a code such as 007, or too long."""
    return (digits[0] == "0" and digits[1:2].isdigit()) or len(digits) > MAX_DIGITS


def _decimal(digits: str) -> Fraction:
    digits = re.sub("[_'\u2009]", "", digits)
    if "," in digits:
        groups = digits.find(".") > digits.find(",") or re.fullmatch(r"\d{1,3}(?:,\d{3})+", digits)
        digits = digits.replace(",", "") if groups else digits.replace(".", "").replace(",", ".")
    return Fraction(digits)


def _begins_inside(found: re.Match[str], before: str) -> bool:
    """Whether the text before a match belongs to the same number or expression."""
    sign = found["sign"]
    if sign is None:
        return bool(_JOINED.search(before))
    if _OPERAND.search(before) or _JOINED.search(before):
        return True
    return sign[-1].isspace() and sign[0] in "+-" and not _OPENING.search(before)


def _ends_inside(found: re.Match[str], after: str) -> bool:
    """Whether the text after a match belongs to the same number or expression."""
    glued = _GLUED.match(after)
    if glued and (
        found["money"] or found["scale"] or not _UNIT.fullmatch(glued[0]) or after[glued.end() :][:1].isdigit()
    ):
        return True
    endless = "." in found[0] and re.match(r"\.\.+|\u2026", after)
    return bool(endless or _GOES_ON.match(after) or (found["money"] and _MAGNITUDE.match(after)))


def _spelled(found: re.Match[str]) -> str:
    """The match without its currency."""
    money = found.span("money") if found["money"] else (found.end(), found.end())
    text = found.string[found.start() : money[0]] + found.string[money[1] : found.end()]
    return re.sub(r"^(?:-|minus|negative)\s*", "-", text.strip(), flags=re.IGNORECASE)


def _plainly(text: str) -> str:
    """The text with ASCII digits and hyphens, and without the LaTeX around numbers."""
    if not text.isascii():
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda high: f"^{{{high[0].translate(_HIGH)}}}", text)
        text = "".join(map(_plain_character, text))
    for pattern, plain in _SPELLINGS:
        text = pattern.sub(plain, text)
    return text


def _plain_character(char: str) -> str:
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.digit(char))
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return f"<{unicodedata.normalize('NFKC', char)}>".replace("\u2044", "/")
    return "/" if char == "\u2044" else _MINUS.get(ord(char), char)

"""Answers to "present?" and "counted?": pure functions `(Flat, Clock) -> Flat` on the loader's side."""

from cot_components.transforms.blur import Blur, Released

__all__ = ["Blur", "Released"]

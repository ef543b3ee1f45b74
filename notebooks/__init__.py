"""The course: nine notebooks, each a `.py` to read and review and an `.ipynb` with its outputs."""

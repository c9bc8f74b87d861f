"""As matplotlib.py, beside it."""

raise ModuleNotFoundError("the tests do without scikit-learn", name="sklearn")

"""The sources of the documentation site; `make docs` builds it (see `build.py`)."""

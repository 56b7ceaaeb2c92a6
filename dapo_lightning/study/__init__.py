"""Reads the runs of a sweep and writes a table, figures and a list of anomalies."""

from importlib.util import find_spec

missing = [name for name in ("matplotlib", "pandas", "scipy") if find_spec(name) is None]
if missing:
    raise ImportError(f'The study needs {" and ".join(missing)}: pip install "dapo-lightning[study]"')

"""Puts the project's folder on the path of a script that is run as a file: `python data_prep/shp.py` from anywhere."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

"""The experiments of the LumbarCLIP paper as files, and those that its open questions ask for."""

from importlib.resources import files

FOLDER = files(__name__)

TABLE2 = FOLDER / "table2.yaml"
NO_PROJECTION = FOLDER / "no-projection.yaml"
PROJECTION = FOLDER / "projection.yaml"
AUGMENTATION_IMPACT = FOLDER / "augmentation-impact.yaml"
MULTI_CLASS = FOLDER / "multi-class.yaml"
EXTERNAL = FOLDER / "external.yaml"

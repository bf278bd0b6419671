"""SOURCE and its `--set data.…=…` options -> the data set, read as a sweep would read it."""

from collections.abc import Sequence

from orchestrator.errors import DataError, SpecError
from orchestrator.spec.diagnostics import fail, validate
from orchestrator.spec.document import Document, override
from trainers.config import DataConfig
from trainers.data import DataSet, load_dataset
from trainers.errors import DataError as TrainersDataError


def read_source(source: str, overrides: Sequence[str]) -> tuple[DataConfig, DataSet]:
    """Read ``source``, given as in data.source; overrides: ``data.field=value``, as for `orchestrate sweep --set`.

    Raises:
        SpecError: an override is wrong.
        DataError: the source cannot be read.
    """
    document = Document(source, {"data": {"source": source}}, {})
    for option in overrides:
        if not option.startswith("data."):
            raise SpecError(f"--set {option}: only options of data are allowed: data.field=value, such as data.num_classes=5.")
        document = override(document, option)
    config, complaints = validate(DataConfig, document.data["data"], ("data",))
    if config is None:
        raise fail(document, complaints)
    try:
        return config, load_dataset(config)
    except TrainersDataError as error:
        raise DataError(str(error)) from error

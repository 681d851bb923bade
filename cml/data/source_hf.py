"""Sources that are data sets of Hugging Face: from the hub, or a folder of parquet files."""

from pathlib import Path
from typing import Any

from cml.data.sources import KINDS, Source, listing
from cml.errors import DataError

_FEATURES = {1: "Audio", 2: "Image"}
_IDS = ("id", "__key__")
_LABELS = ("label", "labels")


class HubSource(Source):
    """A data set that `datasets.load_dataset` opens, with all of its splits.

        features: Image or Audio --> the signal, ClassLabel or integer `label` --> label, other scalars --> metadata

    Samples keep the ids of a column `id` if these are unique, else they are SPLIT/INDEX. The files are fetched and laid
    out by `datasets` once; every process that reads needs to see its cache.

    Args:
        argument: name or local folder, after a comma the configuration.
        ndim: 1 for sound, 2 for pictures.
    """

    def __init__(self, argument: str, ndim: int):
        import pyarrow as pa

        if ndim not in _FEATURES:
            raise DataError(f"hf:{argument} holds pictures or sound, and the codec takes {KINDS[ndim]}.")
        loaded = _load(argument)
        features = next(iter(loaded.values())).features
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        column = next((name for name, kind in kinds.items() if kind == _FEATURES[ndim]), None)
        if column is None:
            shown = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise DataError(f"hf:{argument} has no column of {KINDS[ndim]}; its columns are {shown}.")
        label = _label(features, kinds)
        scalars = [name for name in features if name not in (column, label) and _is_scalar(features[name])]
        ids = {split: _ids(data) for split, data in loaded.items()}
        own = [name for part in ids.values() if part is not None for name in part]
        unique = len(own) == len(set(own)) == sum(len(data) for data in loaded.values())
        splits = {}
        for split, data in loaded.items():
            given = ids[split] if unique else None
            splits[split] = listing(
                given if given is not None else [f"{split}/{index}" for index in range(len(data))],
                [-1 if value is None else value for value in data.data.column(label).to_pylist()] if label else None,
                {name: data.data.column(name) for name in scalars if not (unique and name in _IDS)},
            )
        self._column = column
        feature = features[column]
        undecoded = type(feature)(decode=False)
        self._data = {
            split: data.select_columns([column]).cast_column(column, undecoded) for split, data in loaded.items()
        }
        names = getattr(features[label], "names", None) if label else None
        super().__init__(
            name=f"hf:{argument}",
            ndim=ndim,
            splits=splits,
            classes=tuple(names) if names else None,
            sizes={split: _sizes(data.data.column(column), pa) for split, data in self._data.items()},
        )

    def raw(self, split: str, index: int) -> Path | bytes:
        value = self._data[split][index][self._column]
        if value is None or not (value["bytes"] or value["path"]):
            raise DataError(f"{self.identify(split, index)} is empty.")
        return value["bytes"] or Path(value["path"])


def _load(argument: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError("Sources hf: need the package datasets: pip install 'cml-toolkit[data]'.") from error
    name, _, config = argument.partition(",")
    try:
        loaded = datasets.load_dataset(str(Path(name).expanduser()) if name[:1] == "~" else name, config or None)
    except Exception as error:  # of the hub, of the network, of every reader that a data set may have
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(
            f"Cannot load the data set {argument!r} ({type(error).__name__}: {first}): check name, configuration and "
            "network, or bring its parquet files and give their folder, hf:FOLDER."
        ) from error
    return loaded


def _label(features: Any, kinds: dict[str, str]) -> str | None:
    named = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    for name in _LABELS:
        if name in named or (kinds.get(name) == "Value" and "int" in features[name].dtype):
            return name
    return named[0] if named else None


def _is_scalar(feature: Any) -> bool:
    kind = type(feature).__name__
    return kind == "ClassLabel" or (kind == "Value" and "binary" not in feature.dtype)


def _ids(data: Any) -> list[str] | None:
    name = next((name for name in _IDS if name in data.features), None)
    return None if name is None else [str(value) for value in data.data.column(name).to_pylist()]


def _sizes(column: Any, pa: Any) -> Any:
    """Bytes of each file in a column of structs, without reading them; 0 where only a path is given."""
    import pyarrow.compute as pc

    sizes = [pc.call_function("binary_length", [chunk.field("bytes")]).fill_null(0) for chunk in column.chunks]
    return pa.chunked_array(sizes, pa.int32()).cast(pa.int64()).to_pylist()

"""What a report says of its views and its data, of pictures, of sound and of signals of three axes."""

from cml.tasks.base import Task

_LAST = (
    "Values: numbers a sample that the model reads. Encode and load: processor time of one thread, {thing} to "
    "container, container to the model's input. Train: samples a second, all threads, from memory."
)

_NOUNS = {1: ("sound", "sounds"), 2: ("picture", "pictures"), 3: ("signal", "signals")}
"""A test item, and several, by the axes of the signals."""


def views(task: Task) -> str:
    """What the views are."""
    ceiling, things = task.views[0], nouns(task)[1]
    tokens = "twice" if len(task.size) == 1 else "four times"
    more = ""
    if "pca" in task.views:
        more = "`pca` has the first components of the original spectra, as many a pixel as the codec has latents. "
    if "spectrogram" in task.views:
        more = "`spectrogram` is log-mel, of every sample, a column a patch. "
    return (
        f"Views: `{ceiling}` is the ceiling, at {tokens} the tokens; all others have equal tokens. {more}"
        "`reconstruction` decodes and uses the model of `bigpatch`, trained on originals; the column "
        f"*{by_model(ceiling)}* is how the model of `{ceiling}` does on the same {things}. *Against bigpatch*: paired "
        f"difference on the same test {things}, with a 95 % bootstrap interval over {things}."
    )


def data(task: Task) -> str:
    """What the data are, and what is charged and timed."""
    if len(task.size) == 2:
        return (
            f"Pictures: {task.description}, {_pictures(task)} before any codec; bpp is of that picture. `identity` is "
            "charged raw samples, `resize` lossless WebP. " + _LAST.format(thing="picture")
        )
    if len(task.size) == 3:
        size = "x".join(map(str, task.size))
        return (
            f"Signals: {task.description}; {size} before any codec, {task.count('train')} to train and "
            f"{task.count('test')} to test; bpp is bits a voxel, or a place and time of video. `identity` is charged "
            "raw samples. " + _LAST.format(thing="signal")
        )
    counts = f"{task.count('train')} to train, of {task.size[0]} samples or more, and {task.count('test')} to test"
    if task.frozen:
        counts = f"{task.count('test')} to test"
    return (
        f"Sounds: {task.description}; {counts}, each brought to a peak of 1 before any codec; kbit/s and bits a sample "
        "are of that sound. `identity` is charged 16 bits a sample, `resample` FLAC. " + _LAST.format(thing="sound")
    )


def nouns(task: Task) -> tuple[str, str]:
    """A test item, and several."""
    return _NOUNS[len(task.size)]


def caption(title: str, task: Task) -> str:
    """A caption of pictures, of what the task has."""
    return title.replace("picture", nouns(task)[0])


def by_model(ceiling: str) -> str:
    """The name of a column: the score by the model of the ceiling."""
    return f"by {ceiling}' model" if ceiling.endswith("s") else f"by {ceiling}'s model"


def _pictures(task: Task) -> str:
    size = f"{task.size[0]}x{task.size[1]}"
    if task.frozen:
        return f"{task.count('test')} to test, each brought to {size} as the model wants it"
    return f"{task.count('train')} to train and {task.count('test')} to test, each resized whole to {size}"

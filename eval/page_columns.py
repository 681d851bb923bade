"""What the page knows of the columns of a comparison: names, units, how to write a number, and which end is good."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of the table, and a possible axis of a chart."""

    key: str
    label: str
    note: str = ""
    """One sentence: what the number is."""
    kind: str = "fixed"
    """text, fixed (`digits` after the point), signed, percent, whole, short (12.3 k) or figures (3 significant)."""
    digits: int = 3
    better: str = ""
    """high, low, or nothing where neither end is good."""
    log: bool = False
    """Whether its axis is logarithmic."""
    shown: bool = False
    """Whether the table shows it from the start."""


_RATE = (
    Column("kbps", "kbit/s", "8 x the bytes of the whole container in a second of sound, mean over the test clips.",
           "figures", better="low", log=True, shown=True),
    Column("bpp", "bpp", "Bits a pixel: 8 x the bytes of the whole container, mean over the test pictures.",
           better="low", log=True, shown=True),
)  # fmt: skip
_COST = (
    Column("dimensions", "values", "Numbers a sample that the model reads.", "whole", better="low", log=True,
           shown=True),
    Column("tokens", "tokens", "Positions that leave the stem of the model.", "whole", better="low", log=True),
    Column("encode_mps", "encode MP/s", "Megapixels a second of processor time, picture to container.", "figures",
           better="high", log=True, shown=True),
    Column("load_ips", "load /s", "Samples a second of processor time, container to the input of the model.", "figures",
           better="high", log=True, shown=True),
    Column("train_ips", "train /s", "Samples a second while training, all threads, from memory.", "figures",
           better="high", log=True),
    Column("stem_macs", "stem MACs", "Multiplications of the stem a sample.", "short", better="low", log=True),
    Column("backbone_macs", "body MACs", "Multiplications of the rest of the model a sample.", "short", better="low",
           log=True),
    Column("parameters", "parameters", "Of the model.", "short", better="low", log=True),
    Column("codec_encode_macs", "encoder MACs/px", "Multiplications of the encoder a pixel.", "figures", better="low",
           log=True),
    Column("codec_decode_macs", "decoder MACs/px", "Multiplications of the decoder a pixel.", "figures", better="low",
           log=True),
    Column("codec_encode_parameters", "encoder parameters", "", "short", better="low", log=True),
    Column("codec_decode_parameters", "decoder parameters", "", "short", better="low", log=True),
)  # fmt: skip
_METRICS = {
    column.key: column
    for column in (
        Column("accuracy", "accuracy", "Share of the test items that are read right.", better="high"),
        Column("top1", "top-1", "Share of the test items whose first guess is right.", better="high"),
        Column("top5", "top-5", "Share of the test items with the right class among five guesses.", better="high"),
        Column("agreement", "agreement", "Share of the test items read as without compression.", better="high"),
        Column("balanced_accuracy", "balanced", "Accuracy, mean over the classes.", better="high"),
        Column("macro_f1", "F1", "Mean over the classes.", better="high"),
        Column("roc_auc", "AUC", "Area under the receiver operating curve.", better="high"),
        Column("calibration_error", "ECE", "Expected calibration error: confidence against accuracy.", better="low"),
        Column("miou", "mIoU", "Intersection over union of one confusion matrix, mean over the classes.",
               better="high"),
        Column("character_accuracy", "characters", "1 less the character error rate.", better="high"),
        Column("characters_read", "characters read", "Share of the page's characters, less edits.", better="high"),
        Column("cer", "CER", "Character error rate.", better="low"),
        Column("line_accuracy", "lines right", "Share of the lines without an error.", better="high"),
        Column("lines_found", "lines found", "Share of the lines that a box covers.", better="high"),
        Column("anls", "ANLS", "Normalized Levenshtein similarity, 0 below one half.", better="high"),
        Column("fields", "fields", "ANLS, mean over the fields.", better="high"),
        Column("exact_match", "exact", "Share of the questions answered to the letter.", better="high"),
        Column("pixel_accuracy", "pixel accuracy", "Share of the pixels that get their class.", better="high"),
        Column("boundary_f1", "boundary F1", "Boundaries within a tolerance of the true ones.", better="high"),
        Column("colour_psnr", "colour PSNR, dB", "Of the coloured picture against the original.", digits=2,
               better="high"),
        Column("chroma_explained", "colour explained", "Share of the squared error of answering grey that is gone.",
               better="high"),
        Column("chroma_psnr", "chroma PSNR, dB", "Of the two colour differences, over all pictures.", digits=2,
               better="high"),
        Column("colourfulness", "colourfulness", "Of the coloured pictures (Hasler and Suesstrunk).", digits=1),
        Column("by_pixels_model", "by pixels' model", "The score of the model of `pixels` on the same pictures.",
               better="high"),
        Column("by_waveform_model", "by waveform's model", "The score of the model of `waveform` on the same clips.",
               better="high"),
        Column("on_originals", "on originals", "The score of the same model on pictures never compressed.",
               better="high"),
        Column("si_sdr_improvement", "SI-SDR improvement, dB",
               "By how much the SI-SDR of an answer is above that of the mixture, mean over the stems.", digits=2,
               better="high"),
        Column("si_sdr", "SI-SDR, dB", "Scale-invariant signal-to-distortion ratio.", digits=2, better="high"),
        Column("sdr", "SDR, dB", "Signal-to-distortion ratio as museval gives it: the median over frames of a second.",
               digits=2, better="high"),
        Column("silent_stems", "silent stems", "Left out of the means: there is nothing to find.", "whole"),
        Column("psnr", "PSNR, dB", "Of the reconstruction, 8 bits, mean over the test pictures.", digits=1,
               better="high", shown=True),
        Column("ssim", "SSIM", "Structural similarity.", digits=4, better="high"),
        Column("ms_ssim", "MS-SSIM", "Structural similarity over five scales.", digits=4, better="high"),
        Column("lpips", "LPIPS", "Learned perceptual distance.", better="low"),
        Column("dists", "DISTS", "Distance of structure and texture.", better="low"),
        Column("lpips_db", "LPIPS, dB", "-10 log10 of the distance.", digits=1, better="high"),
        Column("dists_db", "DISTS, dB", "-10 log10 of the distance.", digits=1, better="high"),
    )
}  # fmt: skip
_SOUND: dict[str, dict[str, Any]] = {
    "bpp": {"label": "bits a sample", "note": "8 x the bytes of the whole container / samples of one channel.",
            "shown": False},
    "encode_mps": {"label": "encode MS/s",
                   "note": "Million samples of one channel a second of processor time, clip to container."},
    "codec_encode_macs": {"label": "encoder MACs/sample", "note": "Multiplications of the encoder a sample."},
    "codec_decode_macs": {"label": "decoder MACs/sample", "note": "Multiplications of the decoder a sample."},
    "psnr": {"note": "Of the reconstruction, full scale is 1, mean over the test clips."},
    "on_originals": {"note": "The score of the same model on clips never compressed."},
}  # fmt: skip
"""What columns are where signals are sound."""
DISTORTIONS = ("psnr", "ssim", "ms_ssim", "lpips", "dists", "lpips_db", "dists_db")
_SECOND = ("psnr", "top5", "agreement", "on_originals", "si_sdr", "sdr")  # in the table from the start
_OTHERS = {"chance", "seeds", "gain_low", "gain_high"}


def label_of(metric: str) -> str:
    """A metric as people write it."""
    return _metric(metric, shown=False).label


def columns_of(
    names: Iterable[str], score: str, control: str | None, ceiling: str = "pixels", sound: bool = False
) -> list[dict[str, Any]]:
    """The columns of a summary, in the order of the page; ones that nobody described get their name as label.

    Args:
        names: columns of `report.summarize`.
        score: the main metric.
        control: the view that `gain` is against; None where there is none.
        ceiling: the view that `retention` is against.
        sound: whether the signals are sound, not pictures.
    """
    names = list(names)
    known = {column.key for column in (*_RATE, *_COST)}
    metrics = [name for name in names if f"{name}_sd" in names or name in _METRICS]
    metrics = [score, *(name for name in metrics if name != score)]
    others = [
        name
        for name in names
        if name not in {*known, *metrics, *_OTHERS, "view", "codec", "gain", "retention"} and not name.endswith("_sd")
    ]
    out = [
        Column("view", "view", "What the model reads.", "text", shown=True),
        Column("codec", "codec", "The operating point.", "text", shown=True),
        *_RATE,
        _metric(score, shown=True),
    ]
    if control is not None:
        note = f"Difference in score from {control} on the same test items, with its 95 % bootstrap interval."
        out.append(Column("gain", f"against {control}", note, "signed", better="high", shown=True))
    note = f"(score - chance) / ({ceiling} - chance)."
    out.append(Column("retention", "kept", note, "percent", digits=0, better="high", shown=True))
    out += [_metric(name, shown=name in _SECOND) for name in metrics[1:]]
    out += [*_COST, *(Column(name, name.replace("_", " "), kind="figures") for name in others)]
    out.append(Column("seeds", "seeds", "Trainings that the mean is over.", "whole"))
    if sound:
        out = [replace(column, **_SOUND.get(column.key, {})) for column in out]
    return [asdict(column) for column in out if column.key in names]


def _metric(name: str, shown: bool) -> Column:
    known = _METRICS.get(name, Column(name, name.replace("_", " "), better="high"))
    return replace(known, shown=shown)

"""Video: frames as the file has them, colours by its matrix and range, and back at the same frame rate."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory import peak_megabytes

from cml.data.signal_files import kind_of, read_signal, write_signal
from cml.data.signal_sets import load_signals
from cml.data.signals import write_image
from cml.data.video import open_video, read_video
from cml.errors import DataError

av: Any = pytest.importorskip("av")


def clip(frames: int = 20, size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    """(3, t, y, x) uint8: soft colours that move."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(size[0]), np.arange(size[1]), indexing="ij")
    planes = [128 + 90 * np.sin((x + speed * t) / 11 + speed) * np.cos(y / 13) for speed in (1, 2, 3)]
    return torch.from_numpy(np.stack(planes).astype(np.uint8))


def encoded(path: Path, x: torch.Tensor, encoder: str, pixels: str, rate: Fraction, **told: int) -> Path:
    """By FFmpeg itself, at its best quality."""
    options = {"libx264": {"crf": "1"}, "libvpx-vp9": {"crf": "4", "b": "0", "cpu-used": "5"}, "ffv1": {}}
    with av.open(str(path), "w") as file:
        stream = file.add_stream(encoder, rate=rate, options=options.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = x.shape[3], x.shape[2], pixels
        for name, value in told.items():
            setattr(stream.codec_context, name, value)
        for number in range(x.shape[1]):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(x[:, number].permute(1, 2, 0).numpy()), "rgb24")
            matrix = "ITU709" if told.get("colorspace") == 1 else "ITU601"
            frame = frame.reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range="JPEG" if told.get("color_range") == 2 else "MPEG"
            )
            frame.pts = number
            frame.time_base = 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "encoder", "rate"),
    [
        (".mp4", "libx264", Fraction(30000, 1001)), (".mkv", "libx264", Fraction(24000, 1001)),
        (".webm", "libvpx-vp9", Fraction(60000, 1001)), (".mkv", "ffv1", Fraction(25, 2)),
        (".y4m", "rawvideo", Fraction(60000, 1001)),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("matrix", "reach"), [(1, 1), (6, 2)])
def test_colours_and_frame_rate_of_every_format(suffix, encoder, rate, matrix, reach, tmp_path):
    if suffix == ".y4m" and matrix == 1:
        pytest.skip("y4m does not tell its matrix")
    x = clip()
    path = encoded(tmp_path / f"x{suffix}", x, encoder, "yuv444p", rate, colorspace=matrix, color_range=reach)
    video = read_signal(path)
    assert video.kind == kind_of(path) == "video" and video.samples.shape == x.shape
    assert video.facts["frame_rate"] == [rate.numerator, rate.denominator]
    assert video.facts["pixel_format"] in ("yuv444p", "yuvj444p")
    if suffix != ".y4m":
        assert video.facts["color_matrix"] == {1: "bt709", 6: "smpte170m"}[matrix]
        assert video.facts["color_range"] == {1: "limited", 2: "full"}[reach]
    # The wrong matrix or range is off by 10 and more.
    assert (video.samples.float() - x.float()).abs().mean() < 2.5
    for again in (".mkv", ".mp4", ".y4m"):
        out = tmp_path / f"y{again}"
        write_signal(out, video.samples, video.facts)
        back = read_signal(out)
        assert back.facts["frame_rate"] == video.facts["frame_rate"]
        assert (back.samples.float() - video.samples.float()).abs().mean() < (0.01 if again == ".mkv" else 4)
        if again == ".mkv":
            assert torch.equal(back.samples, video.samples)
        if again == ".mp4" and suffix != ".y4m":
            assert back.facts["color_matrix"] == video.facts["color_matrix"]
            assert back.facts["color_range"] == video.facts["color_range"]


def test_untold_colours_follow_the_size(tmp_path):
    low = read_signal(encoded(tmp_path / "low.mkv", clip(2), "ffv1", "yuv420p", Fraction(25)))
    high = read_signal(encoded(tmp_path / "high.mkv", clip(2, (720, 64)), "ffv1", "yuv420p", Fraction(25)))
    assert low.facts["color_matrix"] == high.facts["color_matrix"] == "unspecified"
    assert (low.facts["matrix_used"], high.facts["matrix_used"]) == ("smpte170m", "bt709")


def test_odd_sizes_pixel_aspect_and_one_frame(tmp_path):
    x = clip(1, (17, 23))
    facts = {"kind": "video", "frame_rate": [15, 1], "pixel_aspect": [16, 11], "rotation": -90}
    for suffix in (".mkv", ".mp4", ".y4m"):
        write_signal(tmp_path / f"x{suffix}", x, facts)
        back = read_signal(tmp_path / f"x{suffix}")
        assert back.samples.shape == x.shape
        assert back.facts.get("pixel_aspect") == ([16, 11] if suffix == ".mp4" else None)
        assert back.facts.get("rotation") == (None if suffix == ".y4m" else -90)
    floats = x.float() / 127.5 - 1 + 0.003 * (2 * torch.rand(x.shape) - 1)
    write_signal(tmp_path / "y.mkv", floats, facts)
    assert torch.equal(read_signal(tmp_path / "y.mkv").samples, x)


def test_some_frames(tmp_path):
    path = tmp_path / "x.mkv"
    write_signal(path, clip(20), {"kind": "video"})
    assert torch.equal(read_video(path, start=5, frames=7).samples, clip(20)[:, 5:12])
    assert torch.equal(read_video(path, start=15, frames=70).samples, clip(20)[:, 15:])
    parts = list(open_video(path, block=8))
    assert [part.shape[1] for part in parts] == [8, 8, 4] and torch.equal(torch.cat(parts, 1), clip(20))
    with pytest.raises(DataError, match="has no frame number 20"):
        read_video(path, start=20)
    with pytest.raises(DataError, match="Frames are counted from 0"):
        read_video(path, start=-1)


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"Cannot read .*text\.mp4 as a video"):
        read_signal(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert kind_of(tmp_path / "sound.mp4") is None
    with pytest.raises(DataError, match="holds no video"):
        read_video(tmp_path / "sound.mp4")
    with pytest.raises(DataError, match=r"Videos are written as \.mkv"):
        write_signal(tmp_path / "x.webm", clip(2), {"kind": "video"})
    with pytest.raises(DataError, match="A video is"):
        write_signal(tmp_path / "x.mkv", torch.zeros(1, 2, 8, 8), {"kind": "video"})
    with pytest.raises(DataError, match="index chooses among the volumes"):
        read_signal(tmp_path / "x.mkv", index=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sound.mp4", "text.mp4"]


def test_a_long_video_is_read_and_written_in_flat_memory(tmp_path):
    path, copy = tmp_path / "x.mkv", tmp_path / "y.mkv"
    part = clip(10, (240, 320))
    write_signal(path, (part for _ in range(40)), {"kind": "video"})  # 92 MB of frames
    code = f"""
from cml.data.video import open_video, write_video
facts = open_video({str(path)!r}, frames=1).facts
write_video({str(tmp_path / "warm.mkv")!r}, open_video({str(path)!r}, frames=2), facts)
with measured():
    write_video({str(copy)!r}, open_video({str(path)!r}, block=16), facts)
"""
    assert peak_megabytes(code) < 40
    assert torch.equal(read_video(copy, start=395).samples, part[:, 5:])


def test_frames_of_a_folder_as_clips(tmp_path):
    for number in [*range(0, 24, 1), *range(40, 50, 1)]:
        write_image(tmp_path / "test" / f"street_{number:04}.png", torch.full((3, 8, 9), number / 50))
    for number in range(0, 270, 30):
        write_image(tmp_path / "train" / f"street_{number:04}.png", torch.full((3, 8, 9), number / 300))
    clips = load_signals(f"frames:{tmp_path}")
    assert [item.name for item in clips.test] == [
        "street_0000_to_street_0007", "street_0008_to_street_0015", "street_0016_to_street_0023",
        "street_0040_to_street_0047",
    ]  # fmt: skip
    assert [item.name for item in clips.train] == ["street_0000_to_street_0210"] and clips.kind == "video"
    video = clips.test[1].read()
    assert video.samples.shape == (3, 8, 8, 9) and video.samples.dtype == torch.uint8
    assert video.samples[0, :, 0, 0].tolist() == [round((number / 50 + 1) * 127.5) for number in range(8, 16)]
    write_image(tmp_path / "lone" / "street_1.png", torch.zeros(3, 8, 9))
    with pytest.raises(DataError, match="no 8 pictures with evenly spaced numbers"):
        load_signals(f"frames:{tmp_path / 'lone'}")


def test_a_folder_of_videos(tmp_path):
    for name in ("train/a", "train/b", "test/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_signal(tmp_path / f"{name}.mkv", clip(3), {"kind": "video"})
    sides = load_signals(f"video:{tmp_path}")
    assert [item.name for item in sides.train] == ["train_a", "train_b"]
    assert torch.equal(sides.test[0].read().samples, clip(3))
    assert not load_signals(f"video:{tmp_path / 'train'}").train
    before = sides.revision
    write_signal(tmp_path / "test" / "c.mkv", clip(4), {"kind": "video"})
    assert load_signals(f"video:{tmp_path}").revision != before
    np.save(tmp_path / "test" / "d.npy", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(DataError, match="several kinds"):
        load_signals(str(tmp_path))
    with pytest.raises(DataError, match="no set of that name"):
        load_signals("movies:x")

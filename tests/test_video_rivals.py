"""Rivals of video: streams of the video codecs, frames as pictures, decimation, and a network for video."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import photo
from test_learned import save_cosmos
from torch import Tensor

import cml
from cml.codecs.av_video import RGB, VideoFormat, encode_video
from cml.codecs.base import Codec
from cml.codecs.downsample import Decimate
from cml.codecs.generative import GenerativeCodec
from cml.errors import BitstreamError, CmlError, CodecError

av = pytest.importorskip("av")

CONTAINERS = {"x264": "h264", "x265": "hevc", "vp9": "ivf", "av1": "obu"}
"""What FFmpeg calls the streams."""
STREAMS = list(CONTAINERS)


@pytest.fixture(params=STREAMS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return cml.create_codec(request.param)


def moving(frames: int, size: tuple[int, int] = (48, 64)) -> Tensor:
    """A picture that drifts to the left: uint8 (3, t, h, w)."""
    x = photo((size[0], size[1] + 2 * frames))
    return torch.stack([x[:, :, 2 * number :][:, :, : size[1]] for number in range(frames)], 1)


def levels(x: Tensor) -> Tensor:
    return (x + 1) * 127.5


def kind(codec: Codec) -> str:
    return codec.spec.name.partition(":")[0]


def test_as_many_frames_come_back_in_their_order(codec: Codec):
    """More than an encoder looks ahead and puts between two others, each grey of its own."""
    greys = (torch.arange(70) * 37 % 200 + 20).to(torch.uint8)
    x = greys.view(1, -1, 1, 1).repeat(3, 1, 34, 66)
    x_hat = levels(codec.decompress(codec.compress(x)))
    assert x_hat.shape == x.shape
    assert (x_hat.mean((0, 2, 3)) - greys).abs().max() < 6


def test_colours_come_back_as_they_were(codec: Codec):
    """The matrix and the range are the same both ways, and the stream names them."""
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 130, 60]])
    x = colours.to(torch.uint8).repeat_interleave(32, 0).T[:, None, None].repeat(1, 2, 64, 1)
    fine = cml.create_codec(kind(codec), crf=8)
    blob = fine.compress(x)
    middles = levels(fine.decompress(blob))[:, :, 32, 16::32]
    assert (middles - colours.T[:, None]).abs().max() < 6
    with av.open(io.BytesIO(blob), "r", format=CONTAINERS[kind(codec)]) as file:
        frames = list(file.decode(video=0))
        context = file.streams.video[0].codec_context
        assert len(frames) == 2  # other programs skip what we put behind the stream
        assert context.pix_fmt == "yuv420p" and context.color_range == 1 and context.colorspace == 1


def test_a_lower_quality_takes_fewer_bytes():
    x = moving(8)
    for name in STREAMS:
        points = []
        for crf in (15, 30, 45):
            codec = cml.create_codec(name, crf=crf)
            blob = codec.compress(x)
            points.append((len(blob), float((levels(codec.decompress(blob)) - x).square().mean())))
        assert points[0][0] > points[1][0] > points[2][0], name
        assert points[0][1] < points[1][1] < points[2][1], name


def test_frames_are_predicted_from_others():
    noise = torch.randint(0, 256, (3, 8, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = noise[:, :1].repeat(1, 8, 1, 1)
    for name in STREAMS:
        codec = cml.create_codec(name)
        assert len(codec.compress(still)) < len(codec.compress(noise)) / 2, name


def test_the_same_bytes_for_any_number_of_threads(codec: Codec):
    x, before = moving(9, (66, 130)), torch.get_num_threads()
    blob = codec.compress(x)
    try:
        torch.set_num_threads(2)
        assert codec.compress(x) == blob
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name, x",
    [
        ("x264:crf=18", moving(8, (64, 64))),
        ("x265:crf=10,preset=slow", moving(8, (64, 64))),
        ("slices-hevc:crf=10,preset=slow", moving(8, (64, 64))[:1]),
    ],
)
def test_small_frames_have_the_same_bytes_each_time(name: str, x: torch.Tensor):
    """By themselves x264 gives one of several streams for these, and x265 with its blocks of 64."""
    x = (x.float() + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 4).clip(0, 255).to(torch.uint8)
    codec = cml.create_codec(name)
    assert len({codec.compress(x) for _ in range(40)}) == 1


def test_no_encoder_writes_of_itself(codec: Codec):
    blob = codec.compress(moving(2))
    assert not any(name in blob for name in (b"x264", b"x265", b"libvpx", b"SVT", b"Lavf", b"Lavc"))


def test_damage_is_found(codec: Codec):
    blob = codec.compress(moving(4))
    changed = [bytearray(blob) for _ in range(6)]
    for place, damaged in zip((6, 40, len(blob) // 2, -22, -9, -1), changed, strict=True):
        damaged[place] ^= 1
    for damaged in (*map(bytes, changed), blob[:-1], blob[:-30], blob + b"\0", blob[: len(blob) // 3]):
        with pytest.raises(BitstreamError):
            codec.decompress(damaged)


def test_streams_of_others_are_not_taken_for_ours():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), "rgb24")
        file.mux(stream.encode(frame.reformat(format="yuv420p")))
        file.mux(stream.encode(None))
    with pytest.raises(BitstreamError, match="not from cml"):
        cml.decompress(buffer.getvalue())


def test_what_they_do_not_take_gets_a_sentence(codec: Codec):
    with pytest.raises(CodecError, match="8 bits a sample"):
        codec.compress(torch.zeros(3, 2, 8, 8, dtype=torch.uint16))
    with pytest.raises(CodecError, match="takes 3 channel"):
        codec.compress(torch.zeros(1, 2, 8, 8))
    with pytest.raises(CodecError, match="no latents"):
        codec.encode(torch.zeros(3, 2, 8, 8))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x264:crf=52", "from 0 to 51"),
        ("x264:preset=quick", "presets ultrafast"),
        ("x265:tune=film", "tune psnr"),
        ("vp9:crf=64", "from 0 to 63"),
        ("vp9:speed=9", "from 0 to 5"),
        ("av1:crf=0", "from 1 to 63"),
        ("av1:preset=14", "from 0 to 13"),
        ("frames-jpeg:quality=0", "from 1 to 100"),
        ("frames-avif:speed=11", "from 0 to 10"),
        ("decimate:space=0.5", "from 1 to 1024"),
        ("decimate:time=x", "number from 1"),
    ],
)
def test_bad_options_get_a_sentence(name: str, sentence: str):
    with pytest.raises(CmlError, match=sentence):
        cml.create_codec(name)


def test_settings_say_how_it_was_encoded():
    settings = cml.create_codec("x265:crf=20,preset=fast").spec.settings
    assert settings["options"]["preset"] == "fast" and settings["options"]["tune"] == "psnr"
    assert "BT.709" in settings["colour"] and settings["encoder"] == "libx265"
    assert cml.create_codec("x264:crf=20,tune=none").spec.name == "x264:crf=20,tune=none"
    assert "tune" not in cml.create_codec("x264:tune=none").spec.settings["options"]


def test_a_missing_package_or_encoder_is_named(codec: Codec, monkeypatch: pytest.MonkeyPatch):
    blob = codec.compress(moving(1))

    def lacking(name: str, mode: str) -> Any:
        raise av.FFmpegError(0, f"no {name}")

    with monkeypatch.context() as patch:
        patch.setattr(av.codec, "Codec", lacking)
        with pytest.raises(CodecError, match="this build of av lacks"):
            cml.create_codec(kind(codec))
    monkeypatch.setitem(sys.modules, "av", None)
    for attempt in (lambda: cml.create_codec(kind(codec)), lambda: cml.decompress(blob)):
        with pytest.raises(CodecError, match=r"package av: pip install 'cml-toolkit\[volumes\]'"):
            attempt()


# frames, and fewer of them


@pytest.mark.parametrize("picture", ["jpeg", "avif"])
def test_each_frame_is_the_picture_that_its_codec_makes(picture: str):
    video, still = (cml.create_codec(name, quality=30) for name in (f"frames-{picture}", picture))
    for channels in (1, 3):
        x = moving(5)[:channels]
        blob = video.compress(x)
        files = [still.compress(frame) for frame in x.unbind(1)]
        wanted = torch.stack([still.decompress(file) for file in files], 1)
        assert torch.equal(cml.decompress(blob), wanted)
        assert len(blob) < sum(map(len, files))  # what the files have in common is kept once


def test_decimation_is_a_mean_of_frames_and_an_antialiased_downsample():
    codec = cml.create_codec("decimate:space=4,time=2")
    assert isinstance(codec, Decimate)
    x = torch.zeros(3, 8, 21, 32)
    x[:, ::2], x[:, 1::2] = 0.5, -0.1
    assert codec.small_size((8, 21, 32)) == (4, 5, 8)
    blob = codec.compress(x)
    small = codec.load_small(blob)
    assert small.shape == (3, 4, 5, 8) and torch.equal(small, codec.downsample(x))
    assert (small - 0.2).abs().max() < 0.01  # between the two
    smooth = moving(8, (40, 48)).float() / 127.5 - 1
    assert (cml.decompress(cml.create_codec("decimate:space=1,time=1").compress(smooth)) - smooth).abs().max() < 0.004
    still = smooth[:, :1].repeat(1, 6, 1, 1)
    same = cml.create_codec("decimate:space=1,time=3")
    assert (cml.decompress(same.compress(still)) - still).abs().max() < 0.004


# a network for video


@pytest.fixture(scope="module")
def cosmos(tmp_path_factory: pytest.TempPathFactory) -> GenerativeCodec:
    folder = tmp_path_factory.mktemp("video")
    pytest.importorskip("diffusers")
    save_cosmos(folder)
    codec = cml.create_codec(f"cosmos-video:{folder}")
    assert isinstance(codec, GenerativeCodec)
    return codec


def test_a_video_network_takes_clips_of_any_length(cosmos: GenerativeCodec):
    spec = cosmos.spec
    assert (spec.ndim, spec.channels, spec.latent_channels, spec.cell) == (3, (3,), 4, (8, 8, 8))
    for frames, grid in ((1, 1), (2, 2), (9, 2), (10, 3)):
        x = moving(frames, (18, 25))
        latent = cosmos.encode(x)
        assert latent.symbols.shape == (4, grid, 3, 4) and latent.original_shape == tuple(x.shape)
        blob = cosmos.compress(x)
        assert torch.equal(cosmos.unpack(blob).symbols, latent.symbols)
        x_hat = cml.decompress(blob)
        assert x_hat.shape == x.shape and x_hat.abs().max() <= 1
        assert torch.equal(x_hat, cosmos.decode(latent))


def test_a_video_network_is_fed_the_clip_as_diffusers_would(cosmos: GenerativeCodec):
    x = moving(9, (16, 24)).float() / 127.5 - 1
    network: Any = cosmos.network
    with torch.no_grad():
        z = network.encode(x[None]).latent_dist.mode()
        wanted = network.decode(z.half().float()).sample[0].clamp(-1, 1)
    fp16 = cml.create_codec(cosmos.spec.name.split(",")[0], entropy="fp16")
    assert torch.equal(fp16.decompress(fp16.compress(x)), wanted)
    fine = cml.create_codec(cosmos.spec.name.split(",")[0], step=0.01)
    assert (fine.encode(x).to_float(normalize=False) - z[0]).abs().max() <= 0.00501


def test_a_video_network_and_one_of_pictures_do_not_take_each_others_bytes(cosmos: GenerativeCodec):
    path = Path(cosmos.spec.name.partition(":")[2].split(",")[0])
    pictures = cml.create_codec(f"cosmos:{path}")
    with pytest.raises(BitstreamError, match="written by codec"):
        cosmos.decompress(pictures.compress(photo((16, 16))))
    with pytest.raises(BitstreamError):
        pictures.decompress(cosmos.compress(moving(2, (16, 16))))
    with pytest.raises(CmlError, match="holds no config"):
        cml.create_codec("cosmos-video:nowhere")


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs the scheduling calls of Linux")
def test_encoders_leave_the_priorities_of_threads_alone():
    """SVT-AV1, run by root, takes real-time priority for its threads and the caller's, and does not give it back."""
    before = os.sched_getscheduler(0)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 12, 64, 96), dtype=np.uint8))
    found = []

    def frames():
        for frame in range(x.shape[1]):
            found.extend(os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task"))
            yield x[:, frame].permute(1, 2, 0).numpy()

    encode_video(frames(), VideoFormat("obu", "libsvtav1", RGB, {"crf": "40", "preset": "8"}))
    assert set(found) == {before} and os.sched_getscheduler(0) == before

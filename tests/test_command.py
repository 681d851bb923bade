"""External programs as codecs: Debian's, and tiny Python scripts that fail in every way."""

import shutil

import numpy as np
import pytest
import torch
from commands import PYTHON, describe
from helpers import hum, photo

import cml
from cml.codecs.bitstream import Container
from cml.errors import BitstreamError, CodecError, DataError

NOTHING = f"{PYTHON} -c pass {{input}} {{output}}"
X = photo((17, 23))


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program} (Debian: libjpeg-turbo-progs, libjxl-tools)")


def python(code: str) -> str:
    """A command line that runs some Python with the files as `source` and `target`."""
    return f'{PYTHON} -c "import sys; source, target = sys.argv[1:3]; {code}" {{input}} {{output}}'


@pytest.mark.parametrize("channels", [1, 3])
def test_cjpeg_and_djpeg(tmp_path, channels):
    needs("cjpeg", "djpeg")
    name = describe(
        tmp_path, encode="cjpeg -quality {quality} -outfile {output} {input}", decode="djpeg -outfile {output} {input}",
        options={"quality": 75}, version="cjpeg -version",
    )  # fmt: skip
    x = photo((61, 83), channels)
    sizes, errors = [], []
    for quality in (10, 40, 90):
        codec = cml.create_codec(name, quality=quality)
        blob = codec.compress(x)
        payload = Container.unpack(blob).payload
        assert payload[:3] == b"\xff\xd8\xff" and len(blob) - len(payload) <= 32
        assert torch.equal(cml.decompress(payload), codec.decompress(blob))  # a plain JPEG inside
        assert torch.equal(cml.decompress(blob), codec.decompress(blob))
        sizes.append(len(blob))
        errors.append(float((codec.decompress(blob) - (x.float() / 127.5 - 1)).square().mean()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True) and errors[0] < 0.01
    assert codec.spec.name == f"{name},quality=90"
    assert cml.create_codec(codec.spec.name).spec == codec.spec
    assert "libjpeg" in codec.spec.settings["version"] and "cjpeg" in codec.spec.settings["encode"]


@pytest.mark.parametrize("channels", [1, 3])
def test_cjxl_and_djxl(tmp_path, channels):
    needs("cjxl", "djxl")
    name = describe(
        tmp_path, encode="cjxl {input} {output} -d {distance}", decode="djxl {input} {output}", picture="png",
        options={"distance": 1.0}, suffix=".jxl",
    )  # fmt: skip
    x = photo((40, 56), channels)
    codec = cml.create_codec(f"{name},distance=0")
    assert torch.allclose((codec.decompress(codec.compress(x)) + 1) * 127.5, x.float(), atol=1e-4)
    assert len(cml.create_codec(name).compress(x)) < len(codec.compress(x))


def test_placeholders_options_and_paths_with_spaces(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    name = describe(
        folder,
        encode=python("open(target, 'w').write(' '.join(sys.argv[3:]))")
        + " {width} {height} {channels} {level:03d} '{mode} x' {here}",
        options={"level": 5, "mode": "fast"},
    )
    codec = cml.create_codec(name, mode="slow")
    payload = Container.unpack(codec.compress(X)).payload.decode()
    assert payload == f"23 17 3 005 slow x {folder}"
    assert codec.spec.settings["options"] == {"level": 5, "mode": "slow"}


def test_what_the_decoder_is_told_belongs_to_the_id(tmp_path):
    # The encoder copies; the decoder's option darkens what it copies.
    copy = "open(target, 'wb').write(open(source, 'rb').read())"
    name = describe(
        tmp_path,
        encode=python(copy) + " {speed}",
        decode=python("d = bytearray(open(source, 'rb').read()); d[-1] = int(sys.argv[3]); open(target, 'wb').write(d)")
        + " {last}",
        options={"last": 7, "speed": 1},
    )
    codecs = [cml.create_codec(name, last=last) for last in (7, 99)]
    blobs = [codec.compress(X) for codec in codecs]
    for blob, last in zip(blobs, (7, 99), strict=True):
        assert float((cml.decompress(blob)[2, -1, -1] + 1) * 127.5) == pytest.approx(last)
    same = cml.create_codec(name, speed=9)
    assert same.spec.codec_id == codecs[0].spec.codec_id != codecs[1].spec.codec_id


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"encode": "no-such-program {input} {output}"}, "needs the program no-such-program"),
        ({"encode": "cat {input}"}, r"encode has no \{output\}"),
        ({"decode": f"{NOTHING} {{qality}}"}, r"Unknown placeholder \{qality\} in decode: known are input"),
        ({"encode": f"{NOTHING} {{input.name}}"}, "Unknown placeholder"),
        ({"encode": f"{NOTHING} {{"}, "Cannot read the command"),
        ({"encode": f"{NOTHING} 'open"}, "Cannot read the command"),
        ({"version": "cat {input}"}, r"Unknown placeholder \{input\} in version"),
        ({"picture": "bmp"}, "ppm or png"),
        ({"timeout": "long"}, "timeout is a number"),
        ({"channels": [2]}, "channels is"),
        ({"channels": 3}, "channels is a list"),
        ({"options": {"quality": [1]}}, "An option is a name"),
        ({"options": {"quality": "a,b"}}, "without commas"),
        ({"options": {"input": "x"}}, "another name"),
        ({"encode": 7}, "encode is text"),
        ({"quality": 7}, "unknown key 'quality'"),
        ({"sound": "mp3"}, "sound is wav"),
        ({"sound": "wav", "channels": [0]}, "numbers from 1 to 255"),
        ({"sound": "wav", "channels": []}, "numbers from 1 to 255"),
        ({"sound": "wav", "encode": f"{NOTHING} {{width}}"}, r"Unknown placeholder \{width\}"),
        ({"sound": "wav", "options": {"rate": 0}}, "as rate"),
        ({"sound": "wav", "options": {"samples": 1}}, "another name"),
        ({"encode": f"{NOTHING} {{q:d}}", "options": {"q": "high"}}, "cannot fill in"),
    ],
)
def test_bad_descriptions_get_a_sentence(tmp_path, keys, sentence):
    with pytest.raises(CodecError, match=sentence):
        cml.create_codec(describe(tmp_path, **keys))


def test_bad_files_and_options_get_a_sentence(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        cml.create_codec("command:none.yaml")
    for text, sentence in (("encode: [", "no yaml"), ("just text", "needs at least")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(CodecError, match=sentence):
            cml.create_codec(f"command:{tmp_path / 'bad.yaml'}")
    with pytest.raises(CodecError, match="no option 'quality'; it takes none"):
        cml.create_codec(describe(tmp_path) + ",quality=3")
    with pytest.raises(CodecError, match="8 bits a sample"):
        cml.create_codec(describe(tmp_path)).compress(torch.zeros(1, 4, 4, dtype=torch.uint16))


@pytest.mark.parametrize(
    ("encode", "sentence"),
    [
        (NOTHING, "wrote nothing"),
        (python("open(target, 'w')"), "wrote nothing"),
        (python("print('a', file=sys.stderr); sys.exit('no licence')"), "failed with exit code 1: no licence"),
        (python("print('only here'); sys.exit(3)"), "failed with exit code 3: only here"),
        (python("sys.exit(4)"), "exit code 4: it says nothing"),
        (python("import time; time.sleep(60)"), "not done after 0.5 s"),
    ],
)
def test_an_encoder_that_fails_gets_a_sentence(tmp_path, encode, sentence):
    timeout = 0.5 if "sleep" in encode else 60
    codec = cml.create_codec(describe(tmp_path, encode=encode, timeout=timeout))
    with pytest.raises(CodecError, match=sentence):
        codec.compress(X)


@pytest.mark.parametrize(
    ("decode", "sentence"),
    [
        (NOTHING, "wrote nothing"),
        (python("open(target, 'w').write('hello')"), "no ppm picture"),
        (python("open(target, 'w').write('P3 2 1 255 0 0 0 0 0 0')"), "wrote 2x1 of mode RGB, not the 8-bit 23x17"),
        (python("open(target, 'w').write('P2 23 17 999 ' + '0 ' * 391)"), "of mode I"),
        (python("sys.exit('broken')"), "exit code 1: broken"),
    ],
)
def test_a_decoder_that_fails_gets_a_sentence(tmp_path, decode, sentence):
    codec = cml.create_codec(describe(tmp_path, decode=decode))
    blob = codec.compress(X)
    with pytest.raises(CodecError, match=sentence):
        codec.decompress(blob)


def test_a_program_that_goes_away_gets_a_sentence(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    codec = cml.create_codec(describe(tmp_path, encode="{here}/program {input} {output}"))
    program.unlink()
    with pytest.raises(CodecError, match="cannot be started"):
        codec.compress(X)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    import tempfile

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    copy = "open('log.txt', 'w'); open(target, 'wb').write(open(source, 'rb').read())"
    codec = cml.create_codec(describe(tmp_path, encode=python(copy), decode=python(copy)))
    assert torch.allclose((codec.decompress(codec.compress(X)) + 1) * 127.5, X.float(), atol=1e-4)
    assert not list((tmp_path / "temporary").iterdir())


# sound


def test_sound_goes_through_wav_files(tmp_path):
    codec = cml.create_codec(describe(tmp_path, sound="wav"), rate=16000)  # of no loss
    for channels in (1, 2):
        x = hum(999).repeat(channels, 1)
        blob = codec.compress(x)
        assert torch.allclose(codec.decompress(blob), x, atol=1e-4)
        assert torch.equal(cml.decompress(blob), codec.decompress(blob))
    assert codec.spec.ndim == 1 and codec.spec.channels == (1, 2)
    assert codec.spec.name.endswith(",rate=16000") and cml.create_codec(codec.spec.name).spec == codec.spec
    with pytest.raises(CodecError, match="1 or 2 channel"):
        codec.compress(torch.zeros(3, 50))
    assert cml.create_codec(describe(tmp_path, sound="wav", channels=[3])).compress(torch.zeros(3, 50))
    with pytest.raises(BitstreamError):
        codec.decompress(cml.create_codec("identity:ndim=1").compress(x))


def test_the_programs_are_told_what_the_sound_is(tmp_path):
    name = describe(
        tmp_path,
        encode=python("open(target, 'w').write(' '.join(sys.argv[3:]))") + " {channels} {samples} {rate} {kbps}",
        sound="wav", options={"kbps": 24},
    )  # fmt: skip
    payload = Container.unpack(cml.create_codec(name, rate=48000).compress(torch.zeros(2, 77))).payload
    assert payload == b"2 77 48000 24"


def test_wav_files_of_other_kinds_are_read(tmp_path):
    from scipy.io import wavfile

    copy = python("open(target, 'wb').write(open(sys.argv[3], 'rb').read())") + " {here}/it.wav"
    x = hum(500)
    for dtype, scale in ((np.int16, 2**15), (np.int32, 2**31), (np.float32, 1), (np.uint8, 128)):
        samples = x.numpy().T.astype(np.float64) * scale
        samples = samples + 128 if dtype is np.uint8 else samples
        wavfile.write(tmp_path / "it.wav", 44100, samples.astype(dtype))
        codec = cml.create_codec(describe(tmp_path, sound="wav", decode=copy))
        assert torch.allclose(codec.decompress(codec.compress(x)), x, atol=0.01 if dtype is np.uint8 else 1e-4)
        # What comes behind the signal is left out.
        assert codec.decompress(codec.compress(x[:, :300])).shape == (1, 300)
        with pytest.raises(CodecError, match=r"1 channel\(s\) of 500 samples at 44100 Hz, not the 1 of 501"):
            codec.decompress(codec.compress(hum(501)))
    with pytest.raises(CodecError, match="at 44100 Hz, not the 1 of 500 at 8000 Hz"):
        slow = cml.create_codec(codec.spec.name.replace("44100", "8000"))
        slow.decompress(slow.compress(x))
    (tmp_path / "it.wav").write_bytes(b"RIFFno")
    with pytest.raises(CodecError, match="wrote no wav file"):
        codec.decompress(codec.compress(x))

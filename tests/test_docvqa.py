"""Questions about pages: dark and light ones, and tiny models of both kinds that have learned to tell them apart."""

import json
import shutil

import numpy as np
import pytest
import torch
from cml.eval.cells import context_of
from cml.eval.dry_run import dry_run
from cml.eval.matrix import Matrix
from cml.eval.protocols import USUAL_VIEWS
from cml.eval.report import command
from cml.eval.results import Run
from cml.tasks.docvqa import Answerer, DocVqa, answers_score
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import cml
from cml.data.docvqa import Page, Question, load_docvqa, scaled
from cml.errors import CmlError, DataError

QUESTION = "Is it dark or light?"
SHADES = {"a": 30, "b": 220, "c": 225, "d": 35}
PROMPT = "user : <image> {} assistant :"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}"
    "{{ c.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def entry(name, **change):
    answers = ["dark", "black"] if SHADES[name] < 128 else ["light"]
    return {
        "questionId": ord(name),
        "question": QUESTION,
        "image": f"documents/{name}.png",
        "answers": answers,
    } | change


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Four pages with a frame, two of them dark, in DocVQA's layout; of one a second thing is asked."""
    root = tmp_path_factory.mktemp("docvqa")
    (root / "documents").mkdir()
    for number, (name, shade) in enumerate(SHADES.items()):
        page = np.full((90, 60 + 4 * number, 3), shade, np.uint8)
        page[20:40, 10:50] = 128
        Image.fromarray(page).save(root / "documents" / f"{name}.png")
    asked = [
        entry("a"),
        entry("b"),
        entry("c"),
        entry("a", question="How many pages?", answers=["one", "1"]),
        entry("d"),
    ]
    (root / "val_v1.0_withQT.json").write_text(json.dumps({"dataset_name": "docvqa", "data": asked}))
    (root / "train_v1.0_withQT.json").write_text("{}")
    return root


def tokenizer(*marks):
    """Whole words; the marks stay one token each."""
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>", "<unk>", *marks]
    words = ["Is", "it", "dark", "or", "light", "?", "user", "assistant", ":", "single", "word", "phrase"]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate([*special, *words])}, "<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    return made


def teach(model, batch):
    """Until it knows a lesson by heart."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = model(**batch).loss
        if loss < 0.02:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("The lesson was not learned.")


def lesson():
    """Pages, and what they are."""
    shades = (20, 60, 200, 240)
    pages = [Image.new("RGB", (60, 90), (shade,) * 3) for shade in shades]
    return pages, ["dark" if shade < 128 else "light" for shade in shades]


@pytest.fixture(scope="module")
def donut(tmp_path_factory):
    """A Donut of one layer on each side."""
    from transformers import (
        DonutImageProcessor,
        DonutProcessor,
        DonutSwinConfig,
        MBartConfig,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
    )

    torch.manual_seed(0)
    words = tokenizer("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>")
    processor = DonutProcessor(DonutImageProcessor(size={"height": 32, "width": 32}), words)
    encoder = DonutSwinConfig(
        image_size=32, patch_size=8, embed_dim=16, depths=[1], num_heads=[2], window_size=4, initializer_range=0.2
    )
    decoder = MBartConfig(
        vocab_size=len(words), d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16,
        encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, max_position_embeddings=200,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, forced_eos_token_id=1, dropout=0,
        init_std=0.2,
    )  # fmt: skip
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    model.generation_config.update(decoder_start_token_id=0, num_beams=2)
    pages, answers = lesson()
    prompt = f"<s_docvqa><s_question>{QUESTION}</s_question><s_answer>"
    texts = [f"{prompt}{answer}</s_answer></s>" for answer in answers]
    ids = words(texts, return_tensors="pt", add_special_tokens=False).input_ids
    pixels = processor.image_processor(pages, return_tensors="pt").pixel_values
    teach(model, {"pixel_values": pixels, "decoder_input_ids": ids[:, :-1], "labels": ids[:, 1:].clone()})
    return save(tmp_path_factory.mktemp("donut"), model, processor)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A LLaVA of one layer on each side."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    words = tokenizer("<image>")
    side = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=side, crop_size=side), words, patch_size=8, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=TEMPLATE,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        initializer_factor=5.0,
    )
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    image = words.get_vocab()["<image>"]
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=image))
    model.generation_config.update(eos_token_id=1, do_sample=True, temperature=5.0)
    pages, answers = lesson()
    prompt = PROMPT.format(f"{QUESTION}\nAnswer the question using a single word or phrase.")
    texts = [f"{prompt} {answer}</s>" for answer in answers]
    batch = processor(images=pages, text=texts, return_tensors="pt")  # pyright: ignore[reportCallIssue]
    labels = batch["input_ids"].clone()
    labels[:, :-2] = -100
    teach(model, {**batch, "labels": labels})
    return save(tmp_path_factory.mktemp("llava"), model, processor)


def save(folder, model, processor):
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_questions_come_by_page(pages):
    data = load_docvqa(f"docvqa:{pages}")
    assert [page.path.stem for page in data.pages] == ["a", "b", "c", "d"] and data.pages[1].size == (90, 64)
    assert [question.text for question in data.pages[0].questions] == [QUESTION, "How many pages?"]
    assert data.pages[0].questions[1].answers == ("one", "1")
    assert data.description.endswith("5 questions about 4 pages")


def test_pages_are_scaled_and_padded_with_paper(pages, donut):
    task = DocVqa(f"docvqa:{pages}", f"hf:{donut}", size=45)
    assert task.size == (45, 36) and task.labels("test").tolist() == [
        [0, 45, 30], [1, 45, 32], [2, 45, 34], [3, 45, 36],
    ]  # fmt: skip
    page = task.signal("test", 0)
    assert page.shape == (3, 45, 36) and page.dtype == torch.uint8 and (page[:, :, 30:] == 30).all()
    assert page[0, 15, 15] == 128 and task.count("train") == 0
    assert (
        scaled((90, 60), 1280) == (90, 60) and scaled((2000, 30), 100) == (100, 2) and scaled((1, 900), 30) == (1, 30)
    )
    whole = DocVqa(f"docvqa:{pages}", f"hf:{donut}")
    assert whole.size == (90, 72) and "of which they fill 92%" in whole.description


def test_scanners_may_turn_a_page(pages, tmp_path):
    shutil.copytree(pages, tmp_path / "set")
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "set" / "documents" / "b.png"
    Image.open(file).save(file, exif=exif)
    page = load_docvqa(f"docvqa:{tmp_path / 'set'}").pages[1]
    assert page.size == (64, 90) and page.image(45).shape == (3, 32, 45)


def test_scores_by_hand():
    pages = [
        Page(None, (9, 9), (Question("q", ("Total", "sum")), Question("q", ("ab",)))),  # pyright: ignore
        Page(None, (9, 9), (Question("q", ("3 May 1999",)),)),  # pyright: ignore
    ]
    score = answers_score([[" TOTAL", "xy"], ["3 May 1998"]], pages)
    assert score.metrics == {"anls": pytest.approx((1 + 0 + 0.9) / 3), "exact_match": pytest.approx(1 / 3)}
    assert score.items["outcome"].tolist() == pytest.approx([1 * 2 / 3, 0.9 * 2 / 3])
    assert score.items["outcome"].mean() == pytest.approx(score.metrics["anls"])
    assert json.loads(score.items["predicted"][0]) == [" TOTAL", "xy"]


@pytest.mark.parametrize("kind", ["donut", "llava"])
def test_models_look_at_the_page(kind, request):
    model = Answerer(f"hf:{request.getfixturevalue(kind)}")
    dark, light = (Image.new("RGB", (60, 90), (shade,) * 3) for shade in (30, 220))
    assert [model.answer(page, QUESTION) for page in (dark, light, dark)] == ["dark", "light", "dark"]
    assert (model.key["instruction"] is None) == (kind == "donut")


def test_the_key_holds_the_preprocessing(llava, tmp_path):
    first = Answerer(f"hf:{llava}").key
    copy = shutil.copytree(llava, tmp_path / "copy")
    assert Answerer(f"hf:{copy}").key == first
    settings = json.loads((copy / "processor_config.json").read_text())
    settings["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (copy / "processor_config.json").write_text(json.dumps(settings))
    other = Answerer(f"hf:{copy}").key
    assert other["preprocessing"] != first["preprocessing"] and other["weights"] == first["weights"]


@pytest.mark.parametrize("kind", ["donut", "llava"])
def test_compare_asks_behind_codecs(kind, pages, tmp_path, request):
    backbone = f"hf:{request.getfixturevalue(kind)}"
    options = {"backbone": backbone, "codecs": ["png", "jpeg:quality=5", "rgb_f8c12:step=1"], "out": tmp_path}
    table = cml.compare("docvqa", f"docvqa:{pages}", size=64, **options)
    assert not table.attrs["failed"]
    assert list(zip(table["view"], table["codec"], strict=True)) == [
        ("pixels", "identity"), ("reconstruction", "jpeg:quality=5"), ("reconstruction", "png"),
        ("reconstruction", "rgb_f8c12:step=1.0"),
    ]  # fmt: skip
    # the second question about the first page is not one that it has learned
    assert table["anls"].tolist() == pytest.approx([0.8] * 4) and table["exact_match"].tolist() == [0.8] * 4
    assert table["agreement"].dropna().tolist() == [1] * 3 and all(n > 5000 for n in table["parameters"])
    for key, result in Run(tmp_path).results().items():
        items = Run(tmp_path).items(key)
        assert items["outcome"].tolist() == pytest.approx([0.8] * 4)
        assert [json.loads(row)[0] for row in items["predicted"]] == ["dark", "light", "light", "dark"]
        assert result.context["longest"] == 64 and result.context["weights"]
    report = (tmp_path / "report.md").read_text()
    assert "--task docvqa" in report and report.count("| anls |") == 1 and report.count("| exact |") == 1


def test_the_command_says_how_large_the_pages_were():
    request = {"task": "docvqa", "data": "docvqa:d", "backbone": "hf:m", "codecs": ["png"], "views": USUAL_VIEWS}
    request |= {"seeds": 1, "patch": 16, "epochs": None}
    assert "--size 64" in command(request | {"size": 64}) and "--size" not in command(request | {"size": None})


def test_a_few_pages_are_enough_for_a_guess(pages, donut, tmp_path):
    comparison = Matrix("docvqa", f"docvqa:{pages}", ("jpeg",), backbone=f"hf:{donut}", size=64).resolve()
    assert [plan.error for plan in dry_run(comparison, Run(tmp_path))] == ["", ""]


def test_the_key_holds_weights_data_and_size(pages, donut, tmp_path):
    def context(**change):
        options = {"data": f"docvqa:{pages}", "size": 64, "backbone": f"hf:{donut}"} | change
        comparison = Matrix("docvqa", codecs=("jpeg",), **options).resolve()
        return context_of(comparison.task, comparison.conditions[1], 0, comparison.patch)

    asked_for = Matrix("docvqa", f"docvqa:{pages}", ("jpeg",), backbone=f"hf:{donut}", size=64).resolve().request
    assert asked_for["size"] == 64
    first = context()
    assert first == context() and first != context(size=45) and len(first["weights"]) == 12
    shutil.copytree(pages, tmp_path / "set")
    file = tmp_path / "set" / "val_v1.0_withQT.json"
    file.write_text(file.read_text().replace('"one"', '"eins"'))
    assert first["data_revision"] != context(data=f"docvqa:{tmp_path / 'set'}")["data_revision"]


def asked(root, **change):
    (root / "val_v1.0_withQT.json").write_text(json.dumps({"data": [entry("a"), entry("b", **change)]}))


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda r: (r / "documents/c.png").unlink(), r"c\.png is missing, and val_v1\.0_withQT\.json asks"),
        (lambda r: (r / "documents/d.png").write_bytes(b"no picture"), r"Cannot read .*d\.png as a picture"),
        (lambda r: asked(r, answers=[]), r"val_v1\.0_withQT\.json, question 98, has no answers"),
        (lambda r: asked(r, answers="light"), "question 98, must have a list of texts"),
        (lambda r: asked(r, answers=["light", " "]), "question 98, must have a list of texts"),
        (lambda r: asked(r, question=None), "question 98, is not in the layout"),
        (lambda r: asked(r, image="", questionId="x7"), "question x7, is not in the layout"),
        (lambda r: (r / "val_v1.0_withQT.json").write_text('{"data": [3]}'), "question number 1, is not in the layout"),
        (lambda r: (r / "val_v1.0_withQT.json").write_text("[1]"), r"withQT\.json is not in the layout"),
        (lambda r: (r / "val_v1.0_withQT.json").write_text("[1"), r"withQT\.json is not JSON"),
        (lambda r: (r / "val_v1.0_withQT.json").unlink(), r"holds no val_v\*\.json"),
        (shutil.rmtree, "a folder of DocVQA's layout"),
    ],
)
def test_wrong_files_are_named(pages, tmp_path, break_it, sentence):
    root = tmp_path / "copy"
    shutil.copytree(pages, root)
    break_it(root)
    with pytest.raises(DataError, match=sentence):
        load_docvqa(f"docvqa:{root}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data": "elpv"}, "docvqa:PATH"),
        ({"size": 16}, "32 pixels or more"),
        ({"epochs": 3}, "no epochs"),
        ({"seeds": 3}, "one seed"),
        ({"views": ("latent",)}, "pixels, reconstruction"),
        ({"codecs": ("gray_f8c4",)}, "choose another codec"),
        ({"backbone": "timm:resnet18"}, "hf:NAME or hf:FOLDER"),
        ({"backbone": "hf:nobody/nothing"}, r"Cannot load hf:nobody/nothing \(.*check the name and the network"),
        ({"backbone": None}, r"Cannot load hf:naver-clova-ix/donut-base-finetuned-docvqa \("),
    ],
)
def test_bad_requests(pages, donut, options, sentence, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    usual = {"task": "docvqa", "data": f"docvqa:{pages}", "backbone": f"hf:{donut}", "codecs": ("jpeg",)}
    with pytest.raises(CmlError, match=sentence):
        Matrix(**(usual | options)).resolve()


def test_models_that_cannot_be_asked(llava, tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(CmlError, match="is a bert that cannot be asked about a page"):
        Answerer(f"hf:{tmp_path / 'bert'}")
    shutil.copytree(llava, tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    with pytest.raises(CmlError, match="is a llava that cannot be asked about a page"):
        Answerer(f"hf:{tmp_path / 'mute'}")
    (tmp_path / "mute" / "model.safetensors").unlink()
    with pytest.raises(CmlError, match=r"Cannot load hf:.*mute \(.*\): bring config\.json"):
        Answerer(f"hf:{tmp_path / 'mute'}")

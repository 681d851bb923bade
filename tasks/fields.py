"""What a receipt says: company, date, address and total, out of lines whose text and place are known."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from cml.tasks.text import anls

from cml.data.documents import FIELDS, Receipt, TextLine

_MONTH = r"(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)[A-Z]*"
_DATE = re.compile(
    rf"\d{{1,2}}([-/.])\d{{1,2}}\1\d{{2,4}}|\d{{4}}([-/.])\d{{1,2}}\2\d{{1,2}}"
    rf"|\d{{1,2}}[-/. ]?{_MONTH}[-/., ]*\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}}|\b20[12]\d[01]\d[0-3]\d\b",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"\d[\d,]*\.\d\d(?!\d)")
_REGISTRATION = re.compile(r"\s*(?:\(?\bCO\.? ?(?:REG|NO)\b.*|\([^()]*\d{4}[^()]*\).*|\d{5,}-[A-Z].*)$", re.IGNORECASE)


class FieldExtractor:
    """A classifier of lines, and a rule a field.

        lines in reading order --n-grams of a line and of the one left of it, place--> P(field | line)
          company, address: the run of lines that is likeliest to be it, joined; a company without registration number
          date, total: what looks like one in the line that is likeliest to hold it

    Args:
        receipts: to learn from: true lines, and the fields that they hold.
    """

    def __init__(self, receipts: Sequence[Receipt]):
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import LogisticRegression

        features, labels = [], []
        for receipt in receipts:
            lines = reading_order(receipt.lines)
            features += list(_features(lines))
            labels += [_label(line.text, receipt.fields) for line in lines]
        self._vectorizer = DictVectorizer()
        self._classifier = LogisticRegression(C=2, max_iter=300)
        self._classifier.fit(self._vectorizer.fit_transform(features), labels)

    def __call__(self, lines: Sequence[TextLine]) -> dict[str, str]:
        """The fields of a receipt; one that is not found is missing."""
        lines = reading_order(lines)
        likely = self._classifier.predict_proba(self._vectorizer.transform(list(_features(lines))))
        columns = {name: likely[:, number] for number, name in enumerate(self._classifier.classes_)}
        found: dict[str, str] = {}
        for name, pattern in (("date", _DATE), ("total", _AMOUNT)):
            share = columns.get(name, np.zeros(len(lines)))
            matches = [(number, match[0]) for number, line in enumerate(lines) if (match := pattern.search(line.text))]
            if matches:
                found[name] = max(matches, key=lambda match: share[match[0]])[1]
        for name in ("company", "address"):
            first, last = _best_run(columns.get(name, np.zeros(len(lines))))
            found[name] = " ".join(line.text for line in lines[first:last])
        found["company"] = _REGISTRATION.sub("", found["company"])
        return {name: text for name, text in found.items() if text}


def field_scores(found: Sequence[Mapping[str, str]], receipts: Sequence[Receipt]) -> dict[str, float]:
    """Mean ANLS of each field over the receipts that have it, and `fields`, the mean of those means."""
    scores = {
        name: float(np.mean([anls(f.get(name, ""), r.fields[name]) for f, r in pairs]))
        for name in FIELDS
        if (pairs := [(f, r) for f, r in zip(found, receipts, strict=True) if name in r.fields])
    }
    return {"fields": float(np.mean(list(scores.values()))), **scores}


def reading_order(lines: Sequence[TextLine]) -> list[TextLine]:
    """From the top, and within a row from the left."""
    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=_middle):
        if rows and _middle(line) - _middle(rows[-1][0]) < (line.box[3] - line.box[1]) / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def _middle(line: TextLine) -> float:
    return (line.box[1] + line.box[3]) / 2


def _features(lines: Sequence[TextLine]) -> Iterator[dict[str, float]]:
    """Of each line: which n-grams it holds, digits being all one; the words left of it in its row; its place."""
    before: TextLine | None = None
    for rank, line in enumerate(lines):
        text = re.sub(r"\d", "0", line.text.upper())
        grams = {f"^{text}$"[n : n + size] for size in (1, 2, 3, 4) for n in range(len(text) + 3 - size)}
        label = before.text.upper() if before is not None and _middle(before) > line.box[1] else ""
        words = {f"left {word}" for word in re.findall(r"[A-Z]+", label)}
        places = {f"rank {min(rank, 15)}", f"down {10 * rank // len(lines)}"}
        yield dict.fromkeys((*grams, *words, *places), 1.0)
        before = line


def _label(text: str, fields: Mapping[str, str]) -> str:
    """Which field a line holds, or a part of."""
    text = text.strip(" ,.")
    amounts = [amount.replace(",", "") for amount in _AMOUNT.findall(fields.get("total", ""))]
    if fields.get("date", "\n") in text:
        return "date"
    if any(amount.replace(",", "") in amounts for amount in _AMOUNT.findall(text)):
        return "total"
    if len(text) > 3:
        for name in ("company", "address"):
            value = fields.get(name, "")
            if text in value or (value and value in text):
                return name
    return "none"


def _best_run(share: np.ndarray) -> tuple[int, int]:
    """The run of lines with the largest sum of log odds against a third, as (first, past the last).

    Against a half the runs are too short: a name in the middle of an address looks like none.
    """
    odds = np.log(2 * share + 1e-9) - np.log1p(1e-9 - share)
    best, total, start, run = -np.inf, 0.0, 0, (0, 0)
    for number, value in enumerate(odds):
        if total <= 0:
            total, start = 0.0, number
        total += value
        if total > best:
            best, run = total, (start, number + 1)
    return run

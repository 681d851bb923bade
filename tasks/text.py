"""How far two texts are apart."""


def edit_distance(a: str, b: str) -> int:
    """The fewest insertions, deletions and replacements of characters that turn one into the other (Levenshtein)."""
    above = list(range(len(b) + 1))
    for row, letter in enumerate(a, 1):
        diagonal, above[0] = above[0], row
        for column, other in enumerate(b, 1):
            diagonal, above[column] = (
                above[column],
                min(diagonal + (letter != other), above[column] + 1, above[column - 1] + 1),
            )
    return above[-1]


def anls(answer: str, truth: str) -> float:
    """Normalized Levenshtein similarity, 0 where below one half (Biten et al., 2019); case and outer space aside."""
    answer, truth = answer.strip().lower(), truth.strip().lower()
    longest = max(len(answer), len(truth))
    similarity = 1 - edit_distance(answer, truth) / longest if longest else 1.0
    return similarity if similarity >= 0.5 else 0.0

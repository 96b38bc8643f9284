"""Prompts that open a block of reasoning, as DeepSeek-R1's and Nemotron's do, and what an answer
says after them."""

OPEN, CLOSE = "<think>", "</think>"


def after_open_reasoning(asked: str, told: str, answer: str) -> str | None:
    """Write what follows a prompt that opens a block of reasoning, where the template shows the
    answer without it.

    An answer without reasoning closes the block at once: what is learned goes on from exactly what
    is asked.

    Args:
        asked: what the model is asked, up to where it answers.
        told: the same conversation with its answer, as the template shows it.
        answer: the words of the answer; reasoning in them, which such templates leave out, is kept.

    Returns:
        The text after `asked`; None where the prompt opens no reasoning, or the template shows the
        rest otherwise, too.
    """
    begin = asked.rfind(OPEN)
    if begin < 0 or asked[begin:].strip() != OPEN or not told.startswith(asked[:begin]):
        return None
    shown = told[begin:]
    if CLOSE in answer and CLOSE not in shown:
        final = answer.rpartition(CLOSE)[2].strip()
        before, found, after = shown.rpartition(final)
        if not final or not found or before.strip():
            return None
        shown = answer.strip() + after
    if CLOSE not in shown:
        return f"\n{CLOSE}\n\n{shown}"
    begins_anew = shown.startswith(OPEN)
    # The line end after <think> stands in the prompt already.
    return shown[len(OPEN) :].removeprefix(asked[begin + len(OPEN) :]) if begins_anew else shown

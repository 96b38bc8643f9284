"""Prompts that open a block of reasoning, as DeepSeek-R1's and Nemotron's do, and what an answer
says after them."""

OPEN, CLOSE = "<think>", "</think>"


def opens_reasoning(prompt: str) -> bool:
    """Say whether a prompt ends with a block of reasoning that has just been opened."""
    open_index = prompt.rfind(OPEN)
    return open_index >= 0 and prompt[open_index:].strip() == OPEN


def split_reasoning(text: str) -> tuple[str, str]:
    """Split what a model said into its reasoning and what it says after it.

    A block that was opened and not closed is reasoning to the end; one that is closed only was
    opened in the prompt.
    """
    before, close, answer = text.rpartition(CLOSE)
    if close:
        return before.replace(OPEN, "").strip(), answer.strip()
    answer, _, reasoning = text.partition(OPEN)
    return reasoning.strip(), answer.strip()


def write_after_closed_reasoning(prompt: str, whole: str) -> str | None:
    """Write what follows a prompt that closes a block of reasoning, where the template shows the
    answer without the block.

    Returns:
        The text after `prompt`; None where the prompt closes no reasoning, or the template renders
        the rest otherwise, too.
    """
    before, block, after = prompt.rpartition(OPEN)
    is_closed = bool(block) and after.strip() == CLOSE
    if not is_closed or not whole.startswith(before) or CLOSE in whole[len(before) :]:
        return None
    return whole[len(before) :]


def write_after_open_reasoning(prompt: str, whole: str, answer: str) -> str | None:
    """Write what follows a prompt that opens a block of reasoning, where the template shows the
    answer without it.

    An answer without reasoning closes the block at once: what is learned goes on from exactly what
    is asked.

    Args:
        prompt: what the model is asked, up to where it answers.
        whole: the same conversation with its answer, as the template renders it.
        answer: the words of the answer; reasoning in them, which such templates leave out, is kept.

    Returns:
        The text after `prompt`; None where the prompt opens no reasoning, or the template renders
        the rest otherwise, too.
    """
    open_index = prompt.rfind(OPEN)
    if not opens_reasoning(prompt) or not whole.startswith(prompt[:open_index]):
        return None

    rendered = whole[open_index:]
    if CLOSE in answer and CLOSE not in rendered:
        # The template left the reasoning out: it is put back before what follows it.
        final = answer.rpartition(CLOSE)[2].strip()
        before, match, after = rendered.rpartition(final)
        if not final or not match or before.strip():
            return None
        rendered = answer.strip() + after
    if CLOSE not in rendered:
        return f"\n{CLOSE}\n\n{rendered}"
    if not rendered.startswith(OPEN):
        return rendered
    # The line end after <think> stands in the prompt already.
    line_end = prompt[open_index + len(OPEN) :]
    return rendered[len(OPEN) :].removeprefix(line_end)

"""What messages about weights must be."""


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text

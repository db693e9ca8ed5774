from alitok.core.errors import error_text


def test_what_an_exception_says_is_one_line():
    error = OSError("\n no route\n to  host \n")
    assert error_text(error) == "no route"
    assert error_text(error, whole=True) == "no route to host"
    for nothing in (TimeoutError(), TimeoutError(" \n")):
        assert error_text(nothing) == error_text(nothing, whole=True) == "TimeoutError"

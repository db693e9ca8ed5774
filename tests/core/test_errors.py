from alitok.core.errors import said


def test_what_an_exception_says_is_one_line():
    error = OSError("\n no route\n to  host \n")
    assert said(error) == "no route"
    assert said(error, whole=True) == "no route to host"
    for nothing in (TimeoutError(), TimeoutError(" \n")):
        assert said(nothing) == said(nothing, whole=True) == "TimeoutError"

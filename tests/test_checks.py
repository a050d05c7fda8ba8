import numpy as np
import pytest

from snrmix import _checks

NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "value", "found"),
    [
        (_checks.whole_number, np.int64(3), 3),
        (lambda name, value: _checks.whole_number(name, value, 0), 0, 0),
        (_checks.flag, np.True_, True),
        (_checks.flag, False, False),
        (_checks.positive, np.float32(0.5), 0.5),
        (_checks.not_negative, 0, 0),
        (_checks.share, 1, 1),
        (lambda name, value: _checks.share(name, value, below_one=True), 0, 0),
        (lambda name, value: _checks.choice(name, value, ("a", "b")), "b", "b"),
        (_checks.key_name, "snrmix", "snrmix"),
    ],
)
def test_what_is_in_range_comes_back(check, value, found):
    assert check("x", value) == found


def test_whole_numbers_and_flags_come_back_as_those_of_python():
    assert type(_checks.whole_number("x", np.uint8(4))) is int
    assert type(_checks.flag("x", np.False_)) is bool


@pytest.mark.parametrize(
    ("check", "values", "error", "message"),
    [
        (_checks.whole_number, (0, -1, 1.0, True, np.True_, "1", None, NAN), ValueError, "must be a whole number from 1 up."),
        (_checks.flag, (0, 1, "yes", None, np.array([True])), TypeError, "must be True or False."),
        (_checks.positive, (0, -1, NAN, "1", None, 1j), ValueError, "must be positive."),
        (_checks.not_negative, (-0.1, NAN, "1", None), ValueError, "must not be negative."),
        (_checks.share, (-0.1, 1.1, NAN, "1", None), ValueError, "must lie between 0 and 1."),
        (_checks.key_name, ("", "a/b", 3, None), ValueError, "must be a name without '/'."),
    ],
)  # fmt: skip
def test_what_is_not_is_refused_by_name(check, values, error, message):
    for value in values:
        with pytest.raises(error) as caught:
            check("x", value)
        assert str(caught.value) == f"x={value!r} {message}"


def test_a_share_may_have_to_be_less_than_one():
    with pytest.raises(ValueError, match=r"x=1 must be a share from 0 up, and less than 1\."):
        _checks.share("x", 1, below_one=True)


def test_an_unknown_choice_gets_the_known_ones_and_the_nearest():
    for value, message in (
        ("spatail", "x='spatail' is unknown; choose one of 'spatial', 'expression'. Did you mean 'spatial'?"),
        (None, "x=None is unknown; choose one of 'spatial', 'expression'."),
        (["spatial"], "x=['spatial'] is unknown; choose one of 'spatial', 'expression'."),
    ):
        with pytest.raises(ValueError) as caught:
            _checks.choice("x", value, ("spatial", "expression"))
        assert str(caught.value).startswith(message)

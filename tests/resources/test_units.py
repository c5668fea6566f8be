"""Amounts: they are exact whole numbers of parts, and can be read from text and written as text."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.errors import CostError
from handout.resources import PARTS, format_amount, parse_amount


@pytest.mark.parametrize(
    ("written", "nbytes"),
    [
        (1, 10**6),
        (0.5, 500_000),
        ("2 GB", 2 * 10**9),
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("512", 512 * 10**6),
        ("1 kB", 1000),
        ("1 KiB", 1024),
        ("3 MB", 3 * 10**6),
        ("3 MiB", 3 * 2**20),
        ("1 TB", 10**12),
        ("1 TiB", 2**40),
        ("7 B", 7),
        ("1_000 MB", 10**9),
        ("1e3 MB", 10**9),
        (Decimal("0.25"), 250_000),
        (0, 0),
    ],
)
def test_sizes_count_bytes_and_plain_numbers_megabytes(written: object, nbytes: int) -> None:
    assert parse_amount(written, size=True) == nbytes * PARTS


@pytest.mark.parametrize(
    ("written", "parts"), [(1, 10_000), (0.1, 1_000), ("2.5", 25_000), (0.00001, 1), (10**30, 10**34)]
)
def test_counts_are_units(written: object, parts: int) -> None:
    assert parse_amount(written, size=False) == parts


@pytest.mark.parametrize("n", [*range(1, 50), 96, 128, 1000])
def test_n_shares_of_an_nth_fit_one_unit(n: int) -> None:
    assert n * parse_amount(1 / n, size=False) <= PARTS
    assert n * parse_amount(Fraction(1, n), size=False) <= PARTS


def test_the_noise_of_binary_fractions_is_removed() -> None:
    assert parse_amount(0.1 * 3, size=False) == 3_000
    assert parse_amount(0.29 * 100, size=False) == 29 * PARTS


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("2 GX", "unit 'GX' is unknown"),
        ("2 gb", "Did you mean 'GB'"),
        ("2G", "'GB' or 'GiB'"),
        ("2k", "'kB' or 'KiB'"),
        ("much", "not an amount"),
        ("", "not an amount"),
        ("1e999999999 GB", "unknown"),
        (-1, "negative"),
        ("-1 GB", "negative"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        (Decimal("inf"), "not finite"),
        (True, "not amounts"),
        ([1], "list is not an amount"),
        (None, "NoneType is not an amount"),
    ],
)
def test_what_is_no_amount_is_refused_by_name(written: object, says: str) -> None:
    with pytest.raises(CostError, match="memory=") as caught:
        parse_amount(written, size=True, name="memory")
    assert says in str(caught.value)
    assert caught.value.name == "memory"
    assert caught.value.remedy


def test_cores_have_no_unit() -> None:
    with pytest.raises(CostError, match="cpu is counted"):
        parse_amount("2 GB", size=False, name="cpu")


def test_a_unit_of_size_makes_any_name_a_size() -> None:
    assert parse_amount("200 GB", size=False, name="scratch") == 200 * 10**9 * PARTS


@pytest.mark.parametrize(
    ("parts", "size", "text"),
    [
        (2 * 10**9 * PARTS, True, "2 GB"),
        (2**31 * PARTS, True, "2 GiB"),
        (1_500_000 * PARTS, True, "1.5 MB"),
        (16_334_712_833 * PARTS, True, "16.33 GB"),
        (0, True, "0 B"),
        (5_000, False, "0.5"),
        (3_333, False, "0.3333"),
        (12 * PARTS, False, "12"),
    ],
)
def test_amounts_are_written_for_people(parts: int, size: bool, text: str) -> None:
    assert format_amount(parts, size=size) == text


@given(st.integers(0, 10**18), st.booleans())
def test_exactly_written_amounts_read_back_the_same(parts: int, size: bool) -> None:
    text = format_amount(parts, size=size, exact=True)
    assert parse_amount(text, size=size) == parts

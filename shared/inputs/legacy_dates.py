"""Date texts as `new Date(text)` of V8 reads them, in UTC: PostHog reads event times with it.

A port of V8's `date/dateparser`: ISO 8601 first; else numbers, month names, zones and times in
almost any order. Pure, and linear in the length of the text.
"""

from __future__ import annotations

from shared.inputs.date_tokens import END, SIGNIFICANT_DIGITS_MAX, Token, Tokens

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_ZONES = {
    "ut": 0, "utc": 0, "z": 0, "gmt": 0, "cdt": -5, "cst": -6, "edt": -4, "est": -5,
    "mdt": -6, "mst": -7, "pdt": -7, "pst": -8,
}  # fmt: skip
_HALVES = {"am": 0, "pm": 12}

_DAYS_MAX = 100_000_000
"""A JavaScript time lies within so many days of 1970."""


class Day:
    """Year, month and day, in the order in which they came."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.month: int | None = None
        self.is_iso = False

    def add(self, number: int) -> bool:
        """Take one more number; False when there are three."""
        if len(self.numbers) == 3:
            return False
        self.numbers.append(number)
        return True

    def date(self) -> tuple[int, int, int] | None:
        """Year, month and day; None when they are none."""
        if not self.numbers:
            return None
        first, second, third = (*self.numbers, 1, 1)[:3]
        if self.month is not None:
            is_day_first = 1 <= first <= 31
            month = self.month
            day, year = (first, second) if is_day_first else (second, first)
        elif self.is_iso or not 1 <= first <= 31:
            year, month, day = first, second, third
        else:
            month, day, year = first, second, third
        if not self.is_iso and 0 <= year <= 99:
            year += 2000 if year <= 49 else 1900
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return None
        return year, month, day


class TimeOfDay:
    """Hour, minute, second and millisecond."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.half: int | None = None

    def expects(self, number: int) -> bool:
        """Whether a number may be the next part of a time that has begun."""
        count = len(self.numbers)
        return (count in (1, 2) and number < 60) or (count == 3 and number < 1000)

    def add(self, number: int) -> bool:
        """Take one more number; False when there are four."""
        if len(self.numbers) == 4:
            return False
        self.numbers.append(number)
        return True

    def finish(self, number: int) -> None:
        """Take the last number."""
        self.add(number)
        self.numbers += [0] * (4 - len(self.numbers))

    def milliseconds(self) -> int | None:
        """Since midnight; None when it is no time."""
        hour, minute, second, millisecond = (*self.numbers, 0, 0, 0, 0)[:4]
        if self.half is not None:
            if hour > 12:
                return None
            hour = hour % 12 + self.half
        is_midnight = hour == 24 and minute == second == millisecond == 0
        if not is_midnight and (
            hour > 23 or minute > 59 or second > 59 or millisecond > 999
        ):
            return None
        return ((hour * 60 + minute) * 60 + second) * 1000 + millisecond


class Zone:
    """The offset from UTC; none means UTC too."""

    def __init__(self) -> None:
        self.sign: int | None = None
        self.hour: int | None = None
        self.minute: int | None = None

    @property
    def is_utc(self) -> bool:
        return self.hour == 0 and self.minute == 0

    def set(self, hours: int) -> None:
        """A zone by its name."""
        self.sign, self.hour, self.minute = (-1 if hours < 0 else 1), abs(hours), 0

    def expects(self, number: int) -> bool:
        """Whether a number may be the minutes behind `+hh:`."""
        return self.hour is not None and self.minute is None and number < 60

    def milliseconds(self) -> int:
        """Of the offset."""
        minutes = (self.hour or 0) * 60 + (self.minute or 0)
        return (self.sign or 1) * minutes * 60_000 if self.sign is not None else 0


class _NoDateError(Exception):
    """The text is no date."""


def milliseconds_of(text: str) -> int | None:
    """Milliseconds since 1970 of a text; None where V8 has an invalid date."""
    tokens, day, time, zone = Tokens(text), Day(), TimeOfDay(), Zone()
    try:
        token = _iso(tokens, day, time, zone)
        _legacy(token, tokens, day, time, zone)
    except _NoDateError:
        return None
    date, since_midnight = day.date(), time.milliseconds()
    if date is None or since_midnight is None:
        return None
    days = days_of(*date)
    if abs(days) > _DAYS_MAX + 1:
        return None
    moment = days * 86_400_000 + since_midnight - zone.milliseconds()
    return moment if abs(moment) <= _DAYS_MAX * 86_400_000 else None


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970 in the proleptic Gregorian calendar; a day beyond its month runs on."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def _iso(tokens: Tokens, day: Day, time: TimeOfDay, zone: Zone) -> Token:
    """Read ISO 8601 as ECMAScript has it; return the first token that is none of it."""
    if tokens.peek().is_sign:
        sign = tokens.take()
        if not tokens.peek().is_digits(6):
            return sign
        year = tokens.take().number
        if sign.sign < 0 and year == 0:
            return sign
        day.add(sign.sign * year)
    elif tokens.peek().is_digits(4):
        day.add(tokens.take().number)
    else:
        return tokens.take()
    for high in (12, 31):
        if not tokens.skip("-"):
            break
        if not tokens.peek().is_digits(2, 1, high):
            return tokens.take()
        day.add(tokens.take().number)
    if _keyword(tokens.peek()) == ("separator", 0):
        tokens.take()
        _iso_time(tokens, time)
        _iso_zone(tokens, zone)
        if tokens.peek() is not END:
            raise _NoDateError
    elif tokens.peek() is not END:
        return tokens.take()
    day.is_iso = True
    return END


def _iso_time(tokens: Tokens, time: TimeOfDay) -> None:
    time.add(_digits(tokens, 24))
    is_24 = time.numbers[0] == 24
    if not tokens.skip(":"):
        raise _NoDateError
    time.add(_digits(tokens, 0 if is_24 else 59))
    if not tokens.skip(":"):
        return
    time.add(_digits(tokens, 0 if is_24 else 59))
    if tokens.skip("."):
        fraction = tokens.take()
        if fraction.kind != "number" or (is_24 and fraction.number > 0):
            raise _NoDateError
        time.add(_thousandths(fraction))


def _iso_zone(tokens: Tokens, zone: Zone) -> None:
    if _keyword(tokens.peek()) == ("zone", 0) and len(tokens.peek().text) == 1:
        tokens.take()
        zone.set(0)
    elif tokens.peek().is_sign:
        zone.sign = tokens.take().sign
        if tokens.peek().is_digits(4):
            zone.hour, zone.minute = divmod(tokens.take().number, 100)
            if zone.hour > 23 or zone.minute > 59:
                raise _NoDateError
            return
        zone.hour = _digits(tokens, 23)
        if not tokens.skip(":"):
            raise _NoDateError
        zone.minute = _digits(tokens, 59)


def _digits(tokens: Tokens, high: int) -> int:
    """Take a number of two digits."""
    if not tokens.peek().is_digits(2, 0, high):
        raise _NoDateError
    return tokens.take().number


def _legacy(
    token: Token, tokens: Tokens, day: Day, time: TimeOfDay, zone: Zone
) -> None:
    """Read what is left as browsers always did."""
    has_number = bool(day.numbers)
    while token is not END:
        if token.kind == "number":
            has_number = True
            _legacy_number(token.number, tokens, day, time, zone)
        elif token.kind == "word":
            _legacy_word(token, tokens, day, time, zone, has_number)
        elif token.is_sign and (zone.is_utc or time.numbers):
            has_number = True
            _legacy_zone(token.sign, tokens, zone)
        elif (token.is_sign or token.is_symbol(")")) and has_number:
            raise _NoDateError
        token = tokens.take()


def _legacy_number(
    number: int, tokens: Tokens, day: Day, time: TimeOfDay, zone: Zone
) -> None:
    if tokens.skip(":"):
        if tokens.skip(":"):
            if time.numbers:
                raise _NoDateError
            time.add(number)
            time.add(0)
        else:
            if not time.add(number):
                raise _NoDateError
            tokens.skip(".")
    elif tokens.skip(".") and time.expects(number):
        time.add(number)
        fraction = tokens.take()
        if fraction.kind != "number":
            raise _NoDateError
        time.finish(_thousandths(fraction))
    elif zone.expects(number):
        zone.minute = number
    elif time.expects(number):
        time.finish(number)
        behind = tokens.peek()
        is_z = _keyword(behind) == ("zone", 0) and len(behind.text) == 1
        if not (behind is END or behind.kind == "blank" or is_z or behind.is_sign):
            raise _NoDateError
    else:
        if not day.add(number):
            raise _NoDateError
        tokens.skip("-")


def _legacy_word(
    token: Token,
    tokens: Tokens,
    day: Day,
    time: TimeOfDay,
    zone: Zone,
    has_number: bool,
) -> None:
    kind, value = _keyword(token)
    if kind == "half" and time.numbers:
        time.half = value
    elif kind == "month":
        day.month = value
        tokens.skip("-")
    elif kind == "zone" and has_number:
        zone.set(value)
    elif has_number or tokens.peek().kind == "number":
        raise _NoDateError


def _legacy_zone(sign: int, tokens: Tokens, zone: Zone) -> None:
    zone.sign = sign
    number = length = 0
    if tokens.peek().kind == "number":
        token = tokens.take()
        number, length = token.number, len(token.text)
    if tokens.peek().is_symbol(":"):
        zone.hour, zone.minute = number, None
    elif length in (1, 2):
        zone.hour, zone.minute = number, 0
    elif length in (3, 4):
        zone.hour, zone.minute = divmod(number, 100)
    else:
        raise _NoDateError


def _keyword(token: Token) -> tuple[str, int]:
    """What a word means, and its number; months may be longer than their three letters."""
    if token.kind != "word":
        return "", 0
    word = token.text.lower()
    if word[:3] in _MONTHS:
        return "month", _MONTHS.index(word[:3]) + 1
    if word in _ZONES:
        return "zone", _ZONES[word]
    if word in _HALVES:
        return "half", _HALVES[word]
    return ("separator", 0) if word == "t" else ("", 0)


def _thousandths(fraction: Token) -> int:
    """The first three digits of a fraction of a second."""
    length = min(len(fraction.text), SIGNIFICANT_DIGITS_MAX)
    if length <= 3:
        return int(fraction.number * 10 ** (3 - length))
    return int(fraction.number // 10 ** (length - 3))

"""Decodes the names of files and classes in archives, folders and tables that are neither UTF-8 nor marked.

Every code page turns almost any bytes into some text, so a statistical guess is wrong too often on names of a few
letters. A name is decoded only if exactly one reading spells all names with the letters of one language.
"""

import functools
import re
from collections.abc import Iterable, Sequence

from ferjax.cli import counted, note
from ferjax.errors import InputError

_RIVAL = "koi8-r"  # swaps small and capital letters with cp1251, so that it is never certain
_COMMON = (
    "cp932 (Japanese), gbk or big5 (Chinese), cp949 (Korean), cp866 or cp1251 (Russian), cp850 or cp1252 (Western)"
)


def decode(names: Sequence[bytes], archive: str, encoding: str | None = None) -> list[str]:
    """Decodes the names of an archive; prints a note with the encoding if it was detected.

    Args:
      names: the names as stored, of the files without a mark of their encoding.
      archive: name of the archive, folder or table, for messages.
      encoding: see `find_encoding`.

    Raises:
      InputError: see `find_encoding`.
    """
    encoding = find_encoding(names, archive, encoding)
    return [name.decode(encoding) for name in names]


def find_encoding(names: Sequence[bytes], archive: str, encoding: str | None = None) -> str:
    """Returns the encoding of names, checked.

    Args:
      names: the names as stored.
      archive: name of the archive, folder or table, for messages.
      encoding: encoding of the names; if None, UTF-8 or else the one code page that fits all names.

    Raises:
      InputError: if the names are not in `encoding`, it is unknown, or none or several code pages fit the folders.
    """
    if encoding is None:
        return "utf-8" if _decoded(names, "utf-8") is not None else _detect(names, archive)
    try:
        _ = [name.decode(encoding) for name in names]
    except (LookupError, UnicodeError) as error:
        raise InputError(f"--name-encoding {encoding}: the names in {archive} cannot be decoded ({error})") from error
    return encoding


def _detect(names: Sequence[bytes], archive: str) -> str:
    """Returns the code page of names that are not UTF-8."""
    parts = [name.split(b"/") for name in names if not name.isascii()]
    every = sorted({part for path in parts for part in path if not part.isascii()})
    folders = sorted({part for path in parts for part in path[:-1] if not part.isascii()})
    # Names of files may contain rare letters and signs; those of the folders, the classes, decide then.
    readings = _readings(every, every) or _readings(folders, every)
    if len(readings) == 1 and _RIVAL not in readings.values():
        ((read, code_page),) = readings.items()
        shown = ", ".join(read[:3]) + ", …" * (len(read) > 3)
        note(f"{archive}: names decoded as {code_page} ({shown}); if they are wrong, use --name-encoding")
        return code_page
    if all(name.replace(b"\\", b"/").rpartition(b"/")[0].isascii() for name in names):
        note(f"{archive}: {counted(len(every), 'file name')} in an unknown encoding; --name-encoding keeps the letters")
        return "cp437"  # which decodes all bytes
    differing = next((i for i, read in enumerate(zip(*readings, strict=True)) if len(set(read)) > 1), 0)
    fits = ", ".join(f"{code_page} ({read[differing]})" for read, code_page in readings.items())
    raise InputError(
        f"{archive}: the names are not UTF-8, and their encoding is uncertain{f': {fits}' if fits else ''}. "
        f"Use --name-encoding ENCODING, such as {_COMMON}"
    )


def _readings(names: Sequence[bytes], every: Sequence[bytes]) -> dict[tuple[str, ...], str]:
    """Returns the texts that spell `names` in a language -> a code page that gives the text and decodes all names."""
    readings: dict[tuple[str, ...], str] = {}
    for language in _languages():
        for code_page in language.code_pages:
            read = _decoded(names, code_page)
            if read and all(map(language.spells, read)) and _decoded(every, code_page) is not None:
                readings.setdefault(read, code_page)
    return readings


def _decoded(names: Sequence[bytes], encoding: str) -> tuple[str, ...] | None:
    try:
        return tuple(name.decode(encoding) for name in names)
    except UnicodeDecodeError:
        return None


class _Language:
    """The letters beyond ASCII of a language, its code pages, and whether it mixes these letters with ASCII letters."""

    def __init__(self, code_pages: str, letters: Iterable[str], *, latin: bool = False, vowels: str = ""):
        self.code_pages, self._latin = code_pages.split(), latin
        self._letters, self._vowels = frozenset(letters), frozenset(vowels)

    def spells(self, name: str) -> bool:
        """Returns whether all words of the name that are not ASCII are spelled with the letters of the language."""
        words = re.findall(r"[^\W\d_]+|[^\x00-\x7f]", name)
        return all(map(self._spells_word, (word for word in words if not word.isascii())))

    def _spells_word(self, word: str) -> bool:
        letters = word.lower().removesuffix("ς")  # in Greek, at the end of a word only
        foreign = [letter for letter in letters if not letter.isascii()]
        mixed = len(foreign) < len(letters)
        return (
            self._letters.issuperset(foreign)
            and (mixed == self._latin or len(word) == 1)
            and word[1:] == word[1:].lower()  # capitals inside a word are a sign of another code page
            and (len(word) < 3 or not self._vowels or not self._vowels.isdisjoint(letters))
        )


@functools.cache
def _languages() -> tuple[_Language, ...]:
    """Returns the languages; of Chinese, Japanese and Korean the frequent characters only.

    Languages whose names are rarely in archives are listed too, since they compete for the same bytes.
    """
    kana = set(_span("ぁ", "ん") + _span("ァ", "ン") + "ー々") - set("ゎゐゑヮヰヱ")
    western = "äöüß àâæçéèêëîïôœùûü áéíñóúü áâãàçéèêíóôõú àèéìíòóù æøåé åäöé éèëïóöü áéíóúýðþæö àçèéíïòóúü çë"
    central = "áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž ąćęłńóśźż áéíóöőúüű ăâîşţșț čćđšž"
    baltic = "ąčęėįšųūž āčēģīķļņšūž äõöüšž"
    latin = [("cp850 cp1252 cp861 mac_roman", letters) for letters in western.split()]
    latin += [("cp852 cp1250 iso8859-2 mac_latin2", letters) for letters in central.split()]
    latin += [("cp775 cp1257 iso8859-4", letters) for letters in baltic.split()]
    latin += [("cp857 cp1254", "çğıöşüâîû")]
    cyrillic = f"cp866 cp1251 cp855 iso8859-5 mac_cyrillic {_RIVAL}"
    return (
        _Language("cp932 euc_jp", kana.union(_characters("shift_jis", 0x88, 0x98))),
        _Language("gbk", _characters("gb2312", 0xB0, 0xD7)),
        _Language("big5", _characters("big5", 0xA4, 0xC6)),
        _Language("cp949", _characters("euc_kr", 0xB0, 0xC8)),
        _Language(cyrillic, _span("а", "я") + "ёєіїґў", vowels="аеёиоуыэюяєії"),
        _Language(cyrillic, _span("а", "ш") + "ђјљњћџѓќѕ", vowels="аеиоур"),
        _Language("cp737 cp1253 cp869", _span("ά", "ώ").replace("ς", "")),
        _Language("cp862 cp1255", _span("א", "ת")),
        _Language("cp720 cp1256 iso8859-6", (_span("ء", "ي") + "پچژگک").replace("ـ", "")),
        *(_Language(code_pages, letters, latin=True) for code_pages, letters in latin),
    )


def _span(first: str, last: str) -> str:
    return "".join(map(chr, range(ord(first), ord(last) + 1)))


def _characters(encoding: str, first: int, last: int) -> str:
    """Returns the characters of two bytes whose first byte is in first..last."""
    pairs = (bytes((lead, trail)) for lead in range(first, last + 1) for trail in range(0x40, 0xFF))
    return "".join(pair.decode(encoding, "ignore") for pair in pairs)

import contextlib
import itertools

import pytest

from ferjax.data.datasets import names
from ferjax.errors import InputError

CERTAIN = [
    ("cp932", ["喜び", "悲しみ", "怒り"]),
    ("cp932", ["笑顔", "真顔"]),
    ("gbk", ["高兴", "悲伤", "惊讶"]),
    ("big5", ["開心", "生氣"]),
    ("cp866", ["радость", "грусть"]),
    ("cp1251", ["Радость", "Грусть"]),
    ("cp850", ["fröhlich", "überrascht", "traurig"]),
    ("cp1252", ["wütend", "fröhlich"]),
    ("cp850", ["dégoût", "colère", "joie"]),
    ("cp1252", ["dégoût", "colère", "joie"]),
    ("cp852", ["štěstí", "překvapení"]),
    ("cp1257", ["džiaugsmas", "baimė", "liūdesys"]),
    ("cp861", ["gleði", "ótti", "viðbjóður"]),
    ("cp1251", ["срећа", "љутња"]),
    ("euc_jp", ["喜び", "悲しみ", "怒り"]),
]
UNCERTAIN = [
    ("cp949", ["행복", "슬픔"]),  # in gbk: 青汗, 浇悄
    ("cp1252", ["colère", "joie"]),  # in cp1250: colčre
    ("cp1257", ["džiaugsmas", "liūdesys", "pyktis"]),  # in cp1254: dşiaugsmas, liûdesys
    ("cp775", ["bēdīgs", "dusmīgs"]),  # in cp850: bëdîgs
    ("mac_roman", ["glädje", "rädsla"]),  # in cp852: glŐdje
    ("iso8859-2", ["žalost", "presenečenje"]),  # in cp1250: ľalost
    ("koi8-r", ["радость", "грусть"]),
    ("cp1251", ["РАДОСТЬ", "ГРУСТЬ"]),
    ("cp874", ["สุข", "เศร้า"]),
]
OTHERS = [
    *[("cp1253", ["χαρά", "λύπη"]), ("cp737", ["χαρά", "λύπη", "θυμός"]), ("cp1255", ["שמחה", "עצב", "כעס"])],
    *[("cp720", ["حزن", "غضب", "خوف"]), ("cp1256", ["سعادة", "حزن"]), ("cp857", ["şaşkın", "kızgın"])],
    *[("cp1250", ["radość", "złość"]), ("cp852", ["meglepő", "öröm"]), ("cp1251", ["радість", "гнів", "огида"])],
    *[("cp1257", ["neitrāls", "bēdīgs"]), ("cp1257", ["rõõmus", "üllatus"]), ("mac_roman", ["fröhlich", "ängstlich"])],
    *[("iso8859-5", ["подив", "огида"]), ("mac_cyrillic", ["гнев", "удивление"]), ("cp855", ["гнев", "радость"])],
    *[("cp850", ["gleði", "reiði"]), ("mac_latin2", ["radosť", "smútok"]), ("iso8859-6", ["حزن", "غضب", "دهشة"])],
]


@pytest.mark.parametrize("encoding, words", CERTAIN, ids=lambda value: value if isinstance(value, str) else None)
def test_names_that_fit_one_code_page_are_decoded_with_a_note(encoding, words, capsys):
    assert names.decode([f"top/{w}/1.jpg".encode(encoding) for w in words], "a.zip") == [
        f"top/{w}/1.jpg" for w in words
    ]
    assert "a.zip: names decoded as " in capsys.readouterr().err


@pytest.mark.parametrize("encoding, words", UNCERTAIN, ids=lambda value: value if isinstance(value, str) else None)
def test_uncertain_names_require_the_encoding(encoding, words):
    words = [f"{word}/1.jpg" for word in words]
    raw = [word.encode(encoding) for word in words]
    with pytest.raises(InputError, match=r"a\.zip: .*encoding is uncertain.*--name-encoding"):
        names.decode(raw, "a.zip")
    assert names.decode(raw, "a.zip", encoding) == words


def test_no_selection_of_names_is_decoded_wrongly():
    for encoding, words in CERTAIN + UNCERTAIN + OTHERS:
        for count in range(1, len(words) + 1):
            for chosen in itertools.combinations(words, count):
                with contextlib.suppress(InputError):  # uncertain
                    raw = [f"{word}/1.jpg".encode(encoding) for word in chosen]
                    assert names.decode(raw, "a.zip") == [f"{word}/1.jpg" for word in chosen]


def test_the_folders_decide_if_a_file_has_a_rare_name(capsys):
    paths = ["喜び/鬱①.jpg", "悲しみ/1.jpg"]
    assert names.decode([path.encode("cp932") for path in paths], "a.zip") == paths
    assert "names decoded as cp932" in capsys.readouterr().err


def test_names_of_files_only_do_not_stop_the_preparation(capsys):
    assert names.decode([b"happy/\x93me\x94.jpg", b"sad/1.jpg"], "a.zip")[0].startswith("happy/")
    assert "1 file name in an unknown encoding" in capsys.readouterr().err


def test_a_backslash_separates_folders_too():
    with pytest.raises(InputError, match="uncertain"):
        names.decode(["faces\\행복\\1.jpg".encode("cp949")], "a.zip")


def test_utf8_and_ascii_names_need_no_note(capsys):
    assert names.decode(["喜び/1.jpg".encode(), b"happy/1.jpg"], "a.zip") == ["喜び/1.jpg", "happy/1.jpg"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp9322", "hex"])
def test_a_wrong_encoding_is_named(encoding):
    with pytest.raises(InputError, match=f"--name-encoding {encoding}: the names in a.zip cannot be decoded"):
        names.decode(["喜び".encode("cp932")], "a.zip", encoding)

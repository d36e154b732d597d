import os

import cv2

from ferjax.runtime.show.snapshots import Snapshots
from tests.support.live_parts import frame, result


def test_snapshots_are_png_images_of_the_frame(tmp_path, capfd):
    pictures = Snapshots(str(tmp_path / "new" / "folder"))
    pictures.write(result(of=frame(12, value=33)))
    pictures.write(result(of=frame(13)._replace(name="me.jpg")))
    pictures.write(result(of=frame(13)._replace(name="me.png")))
    names = sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert names == ["frame-000012.png", "me.jpg.png", "me.png"]
    assert (cv2.imread(str(tmp_path / "new" / "folder" / names[0])) == 33).all()
    (tmp_path / "new" / "folder" / f".frame-000014.{os.getpid()}.part").mkdir()  # a folder at the path of the part file
    pictures.write(result(of=frame(14)))
    assert "frame-000014.png cannot be saved" in capfd.readouterr().err

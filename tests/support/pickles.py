"""Builds the bytes of pickles and of the files that torch.save wrote around them."""

import pickle
import zipfile


def text(value):
    """Returns the opcode that pushes a string; the protocol header and STOP are left to the caller."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def write(path, payload, form):
    """Writes a pickle as it is ("plain"), or as torch.save did ("zip", "legacy")."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
    elif form == "legacy":
        head = [pickle.dumps(each, protocol=2) for each in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join([*head, payload, pickle.dumps([], protocol=2)]))
    else:
        path.write_bytes(payload)

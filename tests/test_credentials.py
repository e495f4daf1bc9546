"""Content credentials: a chain of certificates made here signs retouches, and the official library reads them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
import torch

from diffretouch import AffineGrid, Photo, PhotoError, Signer, open_photo, save_photo
from diffretouch.batch.plan import Job, place
from diffretouch.batch.retouch import Retoucher, retouch_photo
from diffretouch.batch.settings import Settings
from diffretouch.commands.cli import main
from diffretouch.photo import CREDENTIALS_KEPT, CREDENTIALS_LOST, SAVED_SUFFIXES
from diffretouch.photo.core import MIME

c2pa = pytest.importorskip("c2pa")
pytest.importorskip("cryptography.x509")

from certificates import PKCS8, certificate, stored, write_signer  # noqa: E402
from cryptography.hazmat.primitives import serialization as forms  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402


@pytest.fixture(scope="module")
def authority() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def root(authority) -> bytes:
    return certificate("Root", authority, "Root", authority, ca=True)


@pytest.fixture(scope="module")
def pair(authority, root, tmp_path_factory) -> tuple[Path, Path]:
    """A signer's certificate with the one that vouches for it, and the signer's key."""
    return write_signer(tmp_path_factory.mktemp("signer"), authority, root)


@pytest.fixture(scope="module")
def read(root) -> Callable[[Path], dict[str, Any]]:
    """What the official library finds in a file whose signer's root is trusted."""
    context = c2pa.Context.from_dict({"trust": {"user_anchors": root.decode()}})

    def told(path: Path) -> dict[str, Any]:
        mime = MIME[path.suffix.lower()]
        with open(path, "rb") as file, c2pa.Reader(mime, file, context=context) as reader:
            return json.loads(reader.json())

    return told


@pytest.fixture
def original(tmp_path) -> Path:
    path = tmp_path / "original.jpg"
    path.write_bytes(makers.jpeg(makers.scene(1, 60, 40), exif=makers.exif()))
    return path


def active(told: dict[str, Any]) -> dict[str, Any]:
    return told["manifests"][told["active_manifest"]]


def actions(told: dict[str, Any]) -> list[dict[str, Any]]:
    return next(one["data"]["actions"] for one in active(told)["assertions"] if one["label"] == "c2pa.actions.v2")


def history(told: dict[str, Any]) -> list[str | None]:
    return [ingredient.get("active_manifest") for ingredient in active(told)["ingredients"]]


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SAVED_SUFFIXES)
def test_a_signed_file_is_the_unsigned_one_with_credentials_that_hold(tmp_path, original, pair, read, suffix):
    photo = open_photo(original)
    plain, signed = tmp_path / f"plain{suffix}", tmp_path / f"signed{suffix}"
    save_photo(photo, plain, done="brightness 0.3, strength 1")
    save_photo(photo, signed, done="brightness 0.3, strength 1", signer=Signer(*pair), source=original)
    told = read(signed)
    assert told["validation_state"] == "Trusted"
    assert active(told)["signature_info"]["common_name"] == "Signer"
    opened, edited = actions(told)
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.color_adjustments")
    assert edited["description"] == "brightness 0.3, strength 1" and edited["softwareAgent"]["name"] == "DiffRetouch"
    assert edited["digitalSourceType"].endswith("/algorithmicallyEnhanced")
    parent = active(told)["ingredients"][0]
    assert (parent["title"], parent["relationship"]) == ("original.jpg", "parentOf")
    one, other = open_photo(plain), open_photo(signed)
    assert np.array_equal(one.pixels, other.pixels)
    assert (one.exif, one.xmp, one.iptc) == (other.exif, other.xmp, other.iptc)
    assert (one.notes, other.notes) == ((), (CREDENTIALS_LOST,))


def test_credentials_of_the_photo_go_on_in_those_of_the_retouch(tmp_path, original, pair, read):
    first, second, plain = tmp_path / "first.png", tmp_path / "second.jpg", tmp_path / "plain.jpg"
    signer = Signer(*pair)
    save_photo(open_photo(original), first, signer=signer, source=original)
    notes = save_photo(open_photo(first), second, signer=signer, source=first)
    assert notes == (CREDENTIALS_KEPT,) and CREDENTIALS_LOST in open_photo(first).notes
    assert history(read(second)) == [read(first)["active_manifest"]]
    assert read(second)["validation_state"] == "Trusted"
    assert save_photo(open_photo(first), plain) == () and b"c2pa" not in plain.read_bytes()


def test_a_photo_whose_place_is_removed_does_not_bring_its_credentials(tmp_path, original, pair, read):
    first, second = tmp_path / "first.jpg", tmp_path / "second.jpg"
    save_photo(open_photo(original), first, signer=Signer(*pair), source=original)
    notes = save_photo(open_photo(first), second, signer=Signer(*pair), source=first, remove_gps=True)
    assert notes == () and history(read(second)) == [None] and len(read(second)["manifests"]) == 1


def test_a_photo_with_damaged_credentials_or_of_a_kind_the_library_does_not_read_is_named(
    tmp_path, original, pair, read
):
    first = tmp_path / "first.jpg"
    save_photo(open_photo(original), first, signer=Signer(*pair), source=original)
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b"jumdc2cl", bytes(8), 1))  # told when they are read
    second = tmp_path / "second.jpg"
    second.write_bytes(whole.replace(b"exclusions", b"\xff" * 10, 1))  # told when the retouch is signed
    third = tmp_path / "third.raf"
    third.write_bytes(makers.raf(makers.scene(1, 60, 40)))
    for source in (first, second, third):
        assert source.read_bytes() != whole
        target = tmp_path / f"{source.stem}-retouched.jpg"
        assert save_photo(open_photo(original), target, signer=Signer(*pair), source=source) == ()
        assert read(target)["validation_state"] == "Trusted"
        assert active(read(target))["ingredients"][0]["title"] == source.name and history(read(target)) == [None]


def test_a_signature_that_fails_leaves_nothing_behind(tmp_path, original, pair, monkeypatch):
    signer = Signer(*pair)

    def broken(*_: object) -> None:
        raise c2pa.C2paError("Other: no more ink")

    monkeypatch.setattr(c2pa.Builder, "sign", broken)
    with pytest.raises(PhotoError, match=r"^cannot save .*out\.jpg: it cannot be signed: no more ink$"):
        save_photo(open_photo(original), tmp_path / "out.jpg", signer=signer, source=original)
    assert [path.name for path in tmp_path.iterdir()] == ["original.jpg"]


def test_a_signer_asks_what_was_retouched(tmp_path, pair):
    with pytest.raises(ValueError, match="`source`"):
        save_photo(Photo(np.zeros((8, 8, 3), np.uint8)), tmp_path / "a.jpg", signer=Signer(*pair))


# ---- certificates and keys ------------------------------------------------------------------------------------------


def test_keys_of_all_kinds_sign(tmp_path, original, authority, root, read):
    elliptic = forms.PrivateFormat.TraditionalOpenSSL
    for number, (key, form) in enumerate(
        (
            (ec.generate_private_key(ec.SECP256R1()), elliptic),
            (ec.generate_private_key(ec.SECP384R1()), PKCS8),
            (ec.generate_private_key(ec.SECP521R1()), PKCS8),
            (rsa.generate_private_key(65537, 2048), elliptic),
            (ed25519.Ed25519PrivateKey.generate(), PKCS8),
        )
    ):
        (tmp_path / "cert.pem").write_bytes(certificate("Signer", key, "Root", authority) + root)
        (tmp_path / "key.pem").write_bytes(stored(key, form))
        signer = Signer(tmp_path / "cert.pem", tmp_path / "key.pem")
        save_photo(open_photo(original), tmp_path / f"{number}.jpg", signer=signer, source=original)
        assert read(tmp_path / f"{number}.jpg")["validation_state"] == "Trusted"


@pytest.mark.parametrize(
    "fault",
    ["no certificate", "no such certificate", "no key", "no such key", "password", "others' key", "expired"]
    + ["not for signing", "another curve"],
)
def test_what_cannot_sign_is_told_in_one_line_before_any_work(tmp_path, original, authority, root, fault, capsys):
    key = ec.generate_private_key(ec.SECP256K1() if fault == "another curve" else ec.SECP256R1())
    chain = certificate(
        "S", key, "Root", authority, until=-1 if fault == "expired" else 300, use=fault != "not for signing"
    )
    cert, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"hello" if fault == "no certificate" else chain + root)
    secret.write_bytes(stored(key, password=b"secret" if fault == "password" else None))
    if fault == "no key":
        secret.write_bytes(b"hello")
    if fault == "others' key":
        secret.write_bytes(stored(authority))
    if fault.startswith("no such"):
        (cert if fault == "no such certificate" else secret).unlink()
    line = ["retouch", original, "-o", tmp_path / "out", "--report", tmp_path / "log", "--sign", cert, secret]
    assert main(list(map(str, line))) == 2
    said = capsys.readouterr().err
    assert said.startswith("diffretouch: `sign` has to be a certificate and its private key: ")
    assert said.count("\n") == 1 and ("cert.pem" in said or "key.pem" in said), said
    assert fault != "another curve" or "P-256, P-384 or P-521" in said
    assert not (tmp_path / "out").exists() and not (tmp_path / "log").exists()


def test_what_was_done_cannot_be_signed_and_not_written_down(tmp_path, original, pair, capsys):
    line = ["retouch", original, "-o", tmp_path / "out.jpg", "--no-record", "--sign", *pair]
    assert main(list(map(str, line))) == 2
    assert "`sign` has to be left out with `no_record`" in capsys.readouterr().err


# ---- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shoot(tmp_path) -> Path:
    folder = tmp_path / "shoot"
    folder.mkdir()
    for number in range(3):
        makers.scene(number, 60, 40).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"not a photo")
    return folder


@pytest.fixture
def look(tmp_path) -> Path:
    AffineGrid.identity().save(tmp_path / "look.safetensors")
    return tmp_path / "look.safetensors"


def test_a_batch_signs_every_photo_and_goes_on_with_credentials(tmp_path, shoot, look, pair, read, capsys):
    signed = tmp_path / "signed.jpg"
    save_photo(open_photo(shoot / "0.png"), signed, signer=Signer(*pair), source=shoot / "0.png")
    signed.rename(shoot / "signed.jpg")
    line = ["retouch", shoot, "-o", tmp_path / "out", "--look", look, "--sign", *pair]
    assert main(list(map(str, line))) == 1
    lines = {Path(one["source"]).name: one for one in map(json.loads, (tmp_path / "out/diffretouch.jsonl").open())}
    assert lines["signed.jpg"]["notes"] == [CREDENTIALS_KEPT] and "not a photo" in lines["bad.png"]["error"]
    for name in ("0-retouched.png", "1-retouched.png", "2-retouched.png", "signed-retouched.jpg"):
        told = read(tmp_path / "out" / name)
        assert told["validation_state"] == "Trusted"
        assert actions(told)[1]["description"] == "a saved look, strength 1"
    report = (tmp_path / "out/diffretouch.jsonl").read_text()
    assert str(pair[0]) in report and str(pair[1]) not in report, "of the key nothing is written down"
    capsys.readouterr()
    assert main(list(map(str, line))) == 1
    assert "4 of 5 photos were done already" in capsys.readouterr().err


def test_a_signed_photo_that_is_there_already_is_known_by_what_it_shows(tmp_path, shoot, look, pair):
    """As after a kill between moving it and noting it: no two signatures are alike."""
    settings = Settings(look=str(look), sign=(str(pair[0]), str(pair[1])))
    job, retoucher = Job(shoot / "0.png", tmp_path / "out.png"), Retoucher(settings)
    assert retouch_photo(job, retoucher)["error"] is None
    before = job.retouched.read_bytes()
    assert retouch_photo(job, retoucher)["error"] is None and job.retouched.read_bytes() == before
    for other in (open_photo(shoot / "1.png"), open_photo(shoot / "0.png")):  # another photo; without credentials
        save_photo(other, job.retouched, overwrite=True, done=settings.done)
        assert "another file" in retouch_photo(job, retoucher)["error"]


def test_photos_of_a_store_are_signed_into_a_store(tmp_path, shoot, look, pair, read):
    kept, out = place("memory://sign-shoot"), place("memory://sign-out")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "0.png").write_bytes((shoot / "0.png").read_bytes())
    settings = Settings(look=str(look), sign=(str(pair[0]), str(pair[1])))
    for _ in range(2):  # the second finds the first's
        record = retouch_photo(Job(kept / "0.png", out / "0.png"), Retoucher(settings))
        assert record["error"] is None
    (tmp_path / "0.png").write_bytes((out / "0.png").read_bytes())
    assert active(read(tmp_path / "0.png"))["ingredients"][0]["title"] == "0.png"


def test_a_worker_on_a_cluster_signs_alike(tmp_path, shoot, look, pair, read):
    from diffretouch.batch.engine_ray import _Worker

    settings = Settings(look=str(look), sign=(str(pair[0]), str(pair[1])))
    sent = pickle.loads(pickle.dumps(([Job(shoot / "0.png", tmp_path / "out.png")], settings, False)))
    threads = torch.get_num_threads()
    try:
        assert json.loads(_Worker(*sent)({"id": 0})["record"])["error"] is None
    finally:
        torch.set_num_threads(threads)
    assert read(tmp_path / "out.png")["validation_state"] == "Trusted"

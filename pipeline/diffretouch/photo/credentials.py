"""Content credentials (C2PA): from what a retouch was made and how, signed with the user's own certificate.

Written by the official library, c2pa-python, which is imported when something is signed. Nothing is fetched: no time
stamp, no list of trusted or revoked certificates, no manifest that lies elsewhere.
"""

from __future__ import annotations

import importlib
import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from ..extras import require
from .core import MIME, PROGRAM, SOURCE_TYPE, Refused, one_line
from .readers import kind_of

CREDENTIALS_KEPT = "its content credentials (C2PA) go on in those of the retouch"

_ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}  # of elliptic curves
_SETTINGS = {
    "verify": {"verify_trust": False, "ocsp_fetch": False, "remote_manifest_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


class Signer:
    """A certificate with its private key, tried out: what `save_photo` signs with.

    Args:
        certificate: a PEM file with the signer's certificate first and then those that vouch for it. It has to be one
            for signing, as C2PA asks: by its key usage and extended key usage. Who trusts it, is not asked.
        key: a PEM file without a password: EC (P-256, P-384 or P-521), RSA or Ed25519.

    Raises:
        ValueError: one of them cannot be read or is no such file, they do not belong together, or the certificate has
            expired or is not for signing; one line.
        MissingExtra: c2pa-python is not installed.

    Example:
        >>> from diffretouch import Signer
        >>> Signer("photo.jpg", "photo.jpg")
        Traceback (most recent call last):
        ValueError: photo.jpg is no private key in PEM form
    """

    def __init__(self, certificate: str | os.PathLike[str], key: str | os.PathLike[str]):
        require("signing", "c2pa", ["c2pa", "cryptography"])
        self._certificates = _content(certificate)
        self._algorithm, self._key = _loaded_key(key)
        from c2pa import C2paError

        picture = io.BytesIO(imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8)))
        try:
            self._signed(_builder({}, {"title": "nothing"}), MIME[".jpg"], picture, io.BytesIO())
        except C2paError as error:
            raise ValueError(f"{os.fspath(certificate)} with {os.fspath(key)}: {_words(error)}") from error

    def sign(
        self, unsigned: BinaryIO, signed: BinaryIO, name: str, parent: str, done: str | None, history: bool
    ) -> list[str]:
        """Copy a file and give it a manifest.

        Args:
            unsigned: the file, at its start.
            signed: where the copy goes, open for reading and writing.
            name: of the file, whose extension tells its format.
            parent: the file from which it was made.
            done: how it was retouched.
            history: take the parent's own credentials over, where it has some.

        Returns:
            What is to be said of it, a sentence each.

        Raises:
            Refused: it cannot be signed.
        """
        from c2pa import C2paError

        action = {"action": "c2pa.color_adjustments", "digitalSourceType": SOURCE_TYPE, "softwareAgent": _program()}
        action |= {"description": done} if done else {}
        definition = {
            "title": os.path.basename(name),
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        ingredient = {"title": os.path.basename(parent), "relationship": "parentOf"}
        try:
            make = _builder_with_history if history else _builder
            builder = make(definition, ingredient, parent)
            manifest = self._signed(builder, MIME[os.path.splitext(name)[1].lower()], unsigned, signed)
        except C2paError as error:
            if history:  # the parent's credentials are damaged, or lie elsewhere
                for file in (unsigned, signed):
                    file.seek(0)
                signed.truncate()
                return self.sign(unsigned, signed, name, parent, done, history=False)
            raise Refused(f"it cannot be signed: {_words(error)}") from error
        return [CREDENTIALS_KEPT] if _tells_history(manifest) else []

    def _signed(self, builder: Any, mime: str, unsigned: BinaryIO, signed: BinaryIO) -> bytes:
        """The manifest that was written."""
        import c2pa

        info = c2pa.C2paSignerInfo(self._algorithm, self._certificates, self._key, None)
        with builder, c2pa.Signer.from_info(info) as signer:  # one each, as threads may share this object
            return builder.sign(signer, mime, unsigned, signed)


def _builder(definition: dict[str, Any], ingredient: dict[str, str], parent: str = "") -> Any:
    """Of a manifest of an edit, with an ingredient of which no more than this is known."""
    return _edit({**definition, "ingredients": [ingredient]})


def _builder_with_history(definition: dict[str, Any], ingredient: dict[str, str], parent: str) -> Any:
    """With what the parent's file tells of itself, if it is of a kind that the library reads."""
    import c2pa

    with open(parent, "rb") as file:
        kind = kind_of(file)
        mime = MIME.get(f".{kind.lower()}") or os.path.splitext(parent)[1].lower().removeprefix(".")
        if mime not in c2pa.Reader.get_supported_mime_types():
            return _builder(definition, ingredient)
        file.seek(0)
        builder = _edit(definition)
        builder.add_ingredient(ingredient, mime, file)
    return builder


def _edit(definition: dict[str, Any]) -> Any:
    import c2pa

    definition = {"claim_generator_info": [_program()], **definition}
    builder = c2pa.Builder.from_json(json.dumps(definition), c2pa.Context.from_dict(_SETTINGS))
    builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
    return builder


def _tells_history(manifest: bytes) -> bool:
    import c2pa

    context = c2pa.Context.from_dict(_SETTINGS)
    with c2pa.Reader("application/c2pa", io.BytesIO(manifest), context=context) as reader:
        active = reader.get_active_manifest() or {}
    return any("active_manifest" in ingredient for ingredient in active.get("ingredients", ()))


def _program() -> dict[str, str]:
    version = importlib.import_module(__name__.partition(".")[0]).__version__  # by name: no room imports the house
    return {"name": PROGRAM, "version": version}


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{os.fspath(path)} cannot be read: {error.strerror}") from error


def _loaded_key(path: str | os.PathLike[str]) -> tuple[str, bytes]:
    """The algorithm that signs with a key, and the key in the one form that the library reads."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    content = _content(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise ValueError(f"{os.fspath(path)} is protected by a password; give a key without one") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{os.fspath(path)} is no private key in PEM form") from error
    algorithm = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _ALGORITHMS.get(key.curve.name)
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    if algorithm is None:
        raise ValueError(f"{os.fspath(path)} has to be a key of EC (P-256, P-384 or P-521), RSA or Ed25519")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return algorithm, key.private_bytes(*form)


def _words(error: Exception) -> str:
    """What the library says, without its name for the kind of error."""
    return one_line(str(error).partition(": ")[2] or error)

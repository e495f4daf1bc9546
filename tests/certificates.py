"""Certificates made for tests: an authority, those whom it vouches for, and their keys."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)
PKCS8 = forms.PrivateFormat.PKCS8


def named(name: str) -> Any:
    pairs = ((x509.NameOID.COMMON_NAME, name), (x509.NameOID.ORGANIZATION_NAME, "Invented"))
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in pairs])


def certificate(name: str, key: Any, issuer: str, by: Any, *, ca: bool = False, until: int = 300, use: bool = True):
    begins = datetime.datetime.now(datetime.UTC) - 30 * DAY
    made = x509.CertificateBuilder(named(issuer), named(name), key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(begins).not_valid_after(begins + (30 + until) * DAY)
    made = made.add_extension(x509.BasicConstraints(ca, None), critical=True)
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, False, False, False)
    made = made.add_extension(usage, critical=True)
    if use and not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    return made.add_extension(authority, critical=False).sign(by, hashes.SHA256()).public_bytes(forms.Encoding.PEM)


def stored(key: Any, form: Any = PKCS8, password: bytes | None = None) -> bytes:
    locked = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    return key.private_bytes(forms.Encoding.PEM, form, locked)


def write_signer(folder: Path, authority: Any, root: bytes) -> tuple[Path, Path]:
    """cert.pem, with the authority's behind it, and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "cert.pem").write_bytes(certificate("Signer", key, "Root", authority) + root)
    (folder / "key.pem").write_bytes(stored(key))
    return folder / "cert.pem", folder / "key.pem"

"""A certificate authority to be thrown away, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(directory: Path, *words: str) -> None:
    program = shutil.which("openssl")
    assert program, "the tests of TLS need the openssl command"
    done = subprocess.run([program, *words], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_authority(directory: Path) -> Path:
    """`ca.crt` and `ca.key` in `directory`, which is made. Everybody can read them: a server in a container must."""
    directory.mkdir()
    directory.chmod(0o755)
    extensions = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    subject = f"/CN=HarvestBrain test authority {directory.name}"
    _openssl(
        directory,
        *("req", "-x509", *_CURVE, "-days", "2", "-subj", subject, *extensions, "-keyout", "ca.key", "-out", "ca.crt"),
    )
    return directory


def sign(authority: Path, name: str, hosts: str) -> None:
    """`NAME.crt` and `NAME.key` beside the authority's own, for `hosts`, such as `IP:127.0.0.1,DNS:localhost`."""
    _openssl(authority, "req", "-new", *_CURVE, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (authority / f"{name}.ext").write_text(
        f"subjectAltName={hosts}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid,issuer\n"
    )
    signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
    _openssl(authority, "x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.crt")
    (authority / f"{name}.key").chmod(0o644)

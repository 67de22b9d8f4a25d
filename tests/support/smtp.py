"""A mail server for the tests: aiosmtpd, which keeps what it is sent and, when told, fails as mail servers do.

It listens on a free port, says which, and ends when its input ends. In its folder, what it has taken lies in `messages`, a
JSON object a line, read by Python's own parser of mail; and `behaviour` says how it is to fail, looked at before each answer:

    {"refuse": "ADDRESS"}     550 to this recipient; "*" is 554 to every message
    {"later": true}           451 to whomever it has not been asked for before
    {"hang": "STEP"}          no answer to this step: CONNECT, RCPT or DATA
    {"late": 1.5}             an answer to the message only after so many seconds
    {"die": "before"}         the connection breaks when the message is sent, which is not kept; "after": which is
"""

import argparse
import asyncio
import email
import email.policy
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class Keeper:
    """Keeps messages, and fails as it is told."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = set()

    def behaviour(self):
        try:
            return json.loads((self.folder / "behaviour").read_text())
        except FileNotFoundError:
            return {}

    async def hang(self, step):
        if self.behaviour().get("hang") == step:
            await asyncio.Event().wait()

    async def handle_RCPT(self, server, session, envelope, address, options):
        await self.hang("RCPT")
        if self.behaviour().get("refuse") == address:
            return "550 5.1.1 no such mailbox"
        if self.behaviour().get("later") and address not in self.asked:
            self.asked.add(address)
            return "451 4.7.1 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        await self.hang("DATA")
        await asyncio.sleep(self.behaviour().get("late", 0))
        die = self.behaviour().get("die")
        if self.behaviour().get("refuse") == "*":
            return "554 5.7.1 message refused"
        if die != "before":
            self.keep(session, envelope)
        if die:
            server.transport.abort()
        return "250 OK"

    def keep(self, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: message.get_body(preferencelist=(kind,)).get_content()
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "encrypted": session.ssl is not None,
            "login": session.auth_data.decode() if session.authenticated else None,
            "headers": [[name, str(value)] for name, value in message.items()],
            "kind": message.get_content_type(),
            "parts": [part.get_content_type() for part in message.iter_parts()],
            "defects": [str(defect) for defect in message.defects],
            "text": part("plain"),
            "html": part("html"),
        }
        with open(self.folder / "messages", "a") as file:
            file.write(json.dumps(kept) + "\n")


class Server(SMTP):
    """Does not say its name when it is to hang at once."""

    async def _handle_client(self):
        await self.event_handler.hang("CONNECT")
        await super()._handle_client()


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", choices=["none", "starttls", "implicit"], default="none")
    parser.add_argument("--login", help="USER:PASSWORD, without which nothing is taken")
    return parser.parse_args()


async def serve(chosen):
    loop = asyncio.get_running_loop()
    tls = None
    if chosen.tls != "none":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(chosen.folder / "server.pem", chosen.folder / "server-key.pem")
    keeper = Keeper(chosen.folder)

    def authenticate(server, session, envelope, mechanism, data):
        is_right = isinstance(data, LoginPassword) and b"%s:%s" % (data.login, data.password) == chosen.login.encode()
        return AuthResult(success=is_right, handled=is_right, auth_data=data.login if is_right else None)

    def server():
        return Server(
            keeper,
            hostname="mail.example.com",
            tls_context=tls if chosen.tls == "starttls" else None,
            require_starttls=chosen.tls == "starttls",
            authenticator=authenticate if chosen.login else None,
            auth_required=bool(chosen.login),
            auth_require_tls=False,
        )

    implicit = tls if chosen.tls == "implicit" else None
    listening = await loop.create_server(server, "127.0.0.1", chosen.port, ssl=implicit)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(serve(options()))

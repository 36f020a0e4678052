"""The demo's app: what a user's own `app.py` looks like.

It sends welcome e-mails. "Sending" is a delivery into a Maildir, a folder that any mail reader
opens. The mail servers of `slow.example` refuse the first try (greylisting), `nowhere.example`
knows none of its users, and rendering for `crash.example` takes the whole process down, as a
fault in a native library would.
"""

from __future__ import annotations

import asyncio
import mailbox
import os
from email.message import EmailMessage
from email.utils import formatdate
from string import Template

from taskmux import Context, Exponential, Fail, Taskmux

__all__ = ["SMTPServerBusy", "getting_started", "mux", "password_reset", "welcome"]

mux = Taskmux()

SMTP_TALK = 0.08  # seconds that a conversation with a mail server takes

WELCOME = Template(
    "Hello $name,\n\nyour $plan plan is ready. Reply to this mail if anything is not.\n"
)


class SMTPServerBusy(Exception):
    """450: try again later."""


@mux.task(name="demo.welcome", max_attempts=4, max_crashes=2, backoff=Exponential("200ms"))
async def welcome(ctx: Context, maildir: str, name: str, email: str, plan: str) -> str:
    """Render and deliver the welcome mail; each step is done once, even after a crash."""
    text = await ctx.step("render", render, name, email, plan)
    await ctx.progress(50)
    await smtp_talk(email, ctx.attempt)
    return await ctx.step("deliver", deliver, maildir, ctx.id, email, "Welcome!", text)


@mux.task(name="demo.password_reset", priority="critical")
def password_reset(ctx: Context, maildir: str, email: str) -> str:
    """A sync handler: runs in a thread. Somebody waits for this mail, so it goes first."""
    return deliver(maildir, ctx.id, email, "Reset your password", "Here is your link.\n")


@mux.task(name="demo.getting_started")
async def getting_started(ctx: Context, maildir: str, email: str) -> str:
    """A tip that is sent a while after the welcome mail."""
    await smtp_talk(email, ctx.attempt)
    return deliver(maildir, ctx.id, email, "Getting started", "Three things to try first.\n")


def render(name: str, email: str, plan: str) -> str:
    """Return the mail's text."""
    if email.endswith("@crash.example"):
        os._exit(139)  # what a segmentation fault looks like from outside
    return WELCOME.substitute(name=name, plan=plan)


async def smtp_talk(email: str, attempt: int) -> None:
    """Stand in for the conversation with the recipient's mail server."""
    await asyncio.sleep(SMTP_TALK)
    if email.endswith("@slow.example") and attempt == 1:
        raise SMTPServerBusy("450 4.2.0 greylisted, try again later")
    if email.endswith("@nowhere.example"):
        raise Fail(f"550 5.1.1 no such user: {email}")


def deliver(maildir: str, job_id: str, email: str, subject: str, text: str) -> str:
    """Put the mail into the Maildir and return the name of its file."""
    mail = EmailMessage()
    mail["Message-ID"] = f"<{job_id}@taskmux.example>"
    mail["From"] = "hello@taskmux.example"
    mail["To"] = email
    mail["Subject"] = subject
    mail["Date"] = formatdate()
    mail.set_content(text)
    return mailbox.Maildir(maildir).add(mail)

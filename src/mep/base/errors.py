"""The exceptions of mep: one tree, by cause, each with a stable code and two texts.

    MepError
    |- InputError        what a person wrote or asked for is wrong (options, template, config file, arguments)
    |- RefusedError      understood, and not allowed (identity, admission, signature, authorisation)
    |- HostError         this machine does not let us (accounts, files, privileges, limits)
    |- ServiceError      relay or broker does not answer as it should; trying again may help
    `- TaskError         a task ended other than by its own return value

The user's text may be shown to the person who asked and reveals nothing local; the administrator's text says
all of it and goes to the log only.
"""

from __future__ import annotations

from mep.base.codes import Code, next_step


class MepError(Exception):
    """Base of all expected failures.

    Attributes: `code`; `user_text` (safe for the user who asked); `admin_text` (for the log; defaults to the
    user's text); `step` (what the user can do next, from the code unless given).
    """

    def __init__(
        self, code: Code, user_text: str, *, admin_text: str | None = None, step: str | None = None
    ) -> None:
        super().__init__(user_text)
        self.code = code
        self.user_text = user_text
        self.admin_text = admin_text if admin_text is not None else user_text
        self.step = next_step(code).user if step is None else step

    def __str__(self) -> str:
        return self.for_user()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.code.value, self.user_text, self.admin_text, self.step))

    def for_user(self) -> str:
        """Return the one text a user is shown: code, what happened, next step."""
        return f"{self.code.value}: {self.user_text}" + (f" {self.step}" if self.step else "")

    def for_admin(self) -> str:
        """Return the one text for the log or an administrator's terminal: code, everything, next step."""
        step = next_step(self.code).admin
        return f"{self.code.value}: {self.admin_text}" + (f" {step}" if step else "")


def _rebuild(cls: type[MepError], code: str, user_text: str, admin_text: str, step: str) -> MepError:
    return cls(Code(code), user_text, admin_text=admin_text, step=step)


class InputError(MepError):
    """What a person wrote or asked for is wrong."""


class RefusedError(MepError):
    """Understood, and not allowed."""


class HostError(MepError):
    """This machine does not let us."""


class ServiceError(MepError):
    """Relay or broker does not answer as it should; trying again may help."""


class TaskError(MepError):
    """A task ended other than by its own return value."""

"""Accounts as the system names them."""

from __future__ import annotations

import os
import pwd

import pytest

from mep.base.errors import RefusedError
from mep.host.accounts import find_account, find_ids, own_account


def test_an_account_has_all_its_groups() -> None:
    entry = pwd.getpwuid(0)
    account = find_account(entry.pw_name)
    assert (account.uid, account.gid, account.home) == (0, entry.pw_gid, entry.pw_dir)
    assert set(account.gids) == set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert len(account.group_names) == len(account.gids)


def test_an_unknown_one_has_a_code_and_no_name_for_the_user() -> None:
    with pytest.raises(RefusedError, match="IDENTITY_NO_ACCOUNT") as caught:
        find_account("no-such-account")
    assert "no-such-account" in caught.value.for_admin()
    assert "no-such-account" not in caught.value.for_user()


def test_our_own() -> None:
    assert own_account().uid == os.geteuid()


def test_the_numbers_of_names_and_of_numbers_and_no_others() -> None:
    me = own_account()
    ids = find_ids(me, ["root", "1234", "no-such-account", "ro*", ""], ["root", "no-such-group", "77"])
    assert ids.uids == {"root": 0, "1234": 1234, me.name: me.uid}
    assert ids.gids == {"root": 0, "77": 77}

"""`sparing cache check` and `repair`."""


def test_a_torn_newest_version_is_reported_and_repaired(sparing, files):
    made = files / "c.lance"
    assert sparing("cache", "import", made, "--from", "old.parquet", "--model", "old").code == 0
    for name in ("s0001", "s0002", "s0003"):
        assert sparing("cache", "delete", made, name).code == 0
    done = sparing("cache", "check", made)
    assert done.code == 0
    assert "4 of 4 versions" in done.out
    assert "nothing is damaged: version 4, round 0" in sparing("cache", "repair", made).out
    newest = min((made / "_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:30])
    told = sparing("cache", "info", made)
    assert told.code == 1
    assert "sparing cache repair" in told.err
    done = sparing("cache", "check", made, "--json")
    assert done.code == 1
    assert done.json["last_whole"] == 3
    assert list(done.json["problems"]) == [newest.relative_to(made).as_posix()]
    done = sparing("cache", "repair", made, "--json")
    assert (done.code, done.json["version"], done.json["lost_versions"]) == (0, 3, [4])
    assert sparing("cache", "check", made).code == 0
    assert sparing("cache", "check", made.parent).code == 1

from fallback_server.transport.templates import Table, Template


def test_the_table_is_bounded_and_keeps_what_is_used():
    """One that is looked up stays; of the others the oldest goes."""
    table = Table(limit=3, of_one_key=2)
    used = Template()
    table.keep("used", used)
    for number in range(20):
        (found,) = table.kept.get("used", ())
        found.used = True
        table.keep(number, Template())
        assert len(table) == min(number + 2, 3)
    assert table.kept.get("used", ()) == (used,)
    assert [key for key in range(20) if table.kept.get(key, ())] == [18, 19]
    for _ in range(3):
        table.keep("used", Template())
    assert len(table.kept.get("used", ())) == 2
    assert len(table) == 3


def test_less_is_learnt_where_it_is_of_no_use():
    """Where all messages differ, one of 256 is learnt in the end; and again each, when one proves of use."""
    table = Table(limit=2)
    wanted = 0
    for number in range(10_000):
        if table.wants():
            wanted += 1
            table.keep(number, Template())
    assert 40 < wanted < 60
    for templates in table.kept.values():
        templates[0].used = True
    while not table.wants():
        pass
    table.keep("useful", Template())
    assert table.wants()


def test_messages_without_a_template_are_not_looked_at_each_time():
    """What can't be learnt makes the next be learnt later."""
    table = Table()
    wanted = [table.wants() and (table.keep("key", None) or True) for _ in range(1000)]
    assert sum(wanted) < 12
    assert not len(table)

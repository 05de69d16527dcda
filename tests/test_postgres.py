"""The PostgreSQL that other tests stand on."""

import os
import signal

import sqlalchemy as sa


def test_a_database_is_empty_and_of_its_own(postgres_url, postgres_database):
    assert postgres_url != postgres_database
    for url in (postgres_url, postgres_database):
        assert sa.inspect(sa.create_engine(url)).get_table_names() == []


def test_committed_rows_survive_a_crash_of_the_server(postgres_server, postgres_database):
    engine = sa.create_engine(postgres_database)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE kept (number bigint)"))
        connection.execute(sa.text("INSERT INTO kept VALUES (1)"))
    postgres_server.restart(signal.SIGQUIT)
    engine.dispose()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT number FROM kept")).scalar_one() == 1
    engine.dispose()


def test_the_server_does_not_run_as_root(postgres_server):
    owner = (postgres_server.data / "postmaster.pid").stat().st_uid
    assert owner != 0
    assert owner == (os.geteuid() or owner)

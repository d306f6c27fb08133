-- A journal as it was written before it knew sessions, with three readings in it. Never changes.
BEGIN;
CREATE TABLE boots (
    boot INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    offset_ms INTEGER NOT NULL,
    synchronised INTEGER NOT NULL
) STRICT;
CREATE TABLE devices (
    device INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    device_ts INTEGER,
    payload TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    topic TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE health (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    canary INTEGER NOT NULL
) STRICT;
INSERT INTO health (id, canary) VALUES (1, 1);
CREATE VIEW readings (seq, device, ts, key, value) AS
SELECT journal.seq, devices.name, coalesce(journal.device_ts, boots.offset_ms + journal.at_ms), item.key, item.value
FROM journal
CROSS JOIN devices ON devices.device = journal.device
CROSS JOIN boots ON boots.boot = journal.boot
CROSS JOIN json_each(CASE WHEN json_valid(journal.payload) THEN journal.payload ELSE '{}' END) AS item;
INSERT INTO boots VALUES (1, 'before', 5000, 0);
INSERT INTO devices VALUES (1, 'pump');
INSERT INTO journal VALUES (1, 1, 1, 2000, NULL, '{"v":"old1"}', 1893690804);
INSERT INTO journal VALUES (2, 1, 1, 2000, NULL, '{"v":"old2"}', 4059038510);
INSERT INTO journal VALUES (3, 1, 1, 2000, NULL, '{"v":"old3"}', 2397755736);
PRAGMA application_id = 1178749489;
PRAGMA user_version = 1;
COMMIT;

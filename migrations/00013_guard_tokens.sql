-- What the guard of the token chains needs beside the generations: the name of this installation for
-- a spool folder, the history of the database that an exchange was recorded in, and the logins that
-- were seen under a later secrets key. Locks two tables of a few rows for an instant; nothing to replay.

-- +goose Up
create table ops.installation (
    only_row boolean not null default true constraint installation_pkey primary key,
    installation_id uuid not null default gen_random_uuid(),
    constraint installation_is_one_row check (only_row)
);
comment on table ops.installation is 'Grain: one row, this installation. A copy of the database has the same one.';
comment on column ops.installation.only_row is 'True; there is no second row.';
comment on column ops.installation.installation_id is 'Random name. A folder of token answers bears it, so that two installations never share one.';
insert into ops.installation default values;

-- +goose StatementBegin
create function ops.database_timeline() returns text
language plpgsql volatile as $$
begin
    -- Of the log that is being written: pg_control_checkpoint() tells of a promotion only after the
    -- first checkpoint, minutes later.
    return (select system_identifier from pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
exception when insufficient_privilege or feature_not_supported or undefined_function then
    return '';
end
$$;
-- +goose StatementEnd
comment on function ops.database_timeline() is 'Server and timeline of its log: another one after a failover, a restore to a point in time or a move. Empty where the server does not tell.';

alter table ops.credential_attempt add column timeline text;
comment on column ops.credential_attempt.timeline is 'Server and timeline (ops.database_timeline) when it was recorded. After a change no exchange begins until every older one is over. NULL or empty: unknown.';
comment on column ops.credential_attempt.spool is 'Places in spool folders (folder/slot, several parted by a blank) that may hold the raw answer of this attempt or of those it took over from; empty when there is none.';

alter table ops.credential
    drop constraint credential_source_known,
    add constraint credential_source_known check (source in ('seed', 'refresh', 'rekey'));
comment on column ops.credential.source is 'seed: a person logged in; refresh: exchanged by us; rekey: the tokens of the generation before, sealed with another key.';

create table ops.credential_seen (
    account text not null,
    fingerprint text not null,
    constraint credential_seen_pkey primary key (account, fingerprint)
);
comment on table ops.credential_seen is 'Grain: one row per account and login token that was seen, by its fingerprint under a later secrets key than that of its row in ops.credential.';
comment on column ops.credential_seen.account is 'Configured Keystone account.';
comment on column ops.credential_seen.fingerprint is 'Keyed hash of the refresh token.';

-- +goose Down
drop table ops.credential_seen;
-- +goose StatementBegin
do $$
begin
    if exists (select from ops.credential where source = 'rekey') then
        raise exception 'irreversible: tokens were sealed with another key (ops.credential.source rekey); restore from backup';
    end if;
end
$$;
-- +goose StatementEnd
alter table ops.credential
    drop constraint credential_source_known,
    add constraint credential_source_known check (source in ('seed', 'refresh'));
comment on column ops.credential.source is 'seed: a person logged in; refresh: exchanged by us.';
comment on column ops.credential_attempt.spool is 'Spool that will hold the raw answer; empty when there is none.';
alter table ops.credential_attempt drop column timeline;
drop function ops.database_timeline();
drop table ops.installation;

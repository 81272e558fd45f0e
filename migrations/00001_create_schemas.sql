-- The four schemas of the warehouse and what belongs where. Locks nothing; nothing to replay.

-- +goose Up
comment on table public.meterhouse_schema_version is
    'Grain: one row per applied migration. Kept by goose; never edit by hand.';
comment on column public.meterhouse_schema_version.id is 'Order of application.';
comment on column public.meterhouse_schema_version.version_id is 'Number of the migration file.';
comment on column public.meterhouse_schema_version.is_applied is 'Always true; goose deletes the row when it undoes the file.';
comment on column public.meterhouse_schema_version.tstamp is 'When it was applied, in the time zone of the session that did it.';

create schema raw;
comment on schema raw is 'What the vendors said, byte for byte. Not for analysts.';

create schema ops;
comment on schema ops is 'How the loading went: runs, watermarks, coverage, leases, quarantine, credentials. Read it through the views of mart.';

create schema dw;
comment on schema dw is 'Dimensions and facts. Facts name their grain first and hold exact decimals; unknown is NULL.';

create schema mart;
comment on schema mart is 'Views for people and BI: the stable contract. Columns are added, never renamed or removed.';

-- +goose Down
drop schema mart;
drop schema dw;
drop schema ops;
drop schema raw;

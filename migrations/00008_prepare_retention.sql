-- Retention deletes bodies: without an index each deletion would read the whole quarantine to see
-- whether a record refers to it. Building the index keeps writers off ops.quarantine for as long as
-- reading that table takes. Nothing to replay.

-- +goose Up
create index quarantine_payload_idx on ops.quarantine (payload_id) where payload_id is not null;
comment on table raw.payload is 'Grain: one row per answer of a vendor that was kept. Never updated; meterhouse prune deletes by retention.payload what no figure refers to.';
comment on column ops.run.payload_id is 'Landed body, which retention may have deleted since; NULL when the body brought no news or the run has several.';
comment on column ops.quarantine.payload_id is 'The landed body that holds it; NULL when retention deleted it after the record was settled.';
comment on table dw.fact_consumption_sample is 'Grain: one row per level instance and timestamp as delivered by history. Monthly partitions; meterhouse prune drops by retention.samples, the daily rows stay.';

-- +goose Down
comment on table dw.fact_consumption_sample is 'Grain: one row per level instance and timestamp as delivered by history. Monthly partitions.';
comment on column ops.quarantine.payload_id is 'The landed body that holds it.';
comment on column ops.run.payload_id is 'Landed body; NULL when the body brought no news or the run has several.';
comment on table raw.payload is 'Grain: one row per answer of a vendor that was kept. Never updated.';
drop index ops.quarantine_payload_idx;

-- Comments only: what a duration of wolkvox is told in. They said minutes of all; that holds where the vendor writes
-- H:MM:SS. A plain number is kept as it is, since the vendor does not document its unit. Locks nothing for long;
-- nothing to replay.

-- +goose Up
comment on column dw.dim_product.unit is 'What items counts. time: a duration, in minutes where the vendor writes H:MM:SS, and as delivered where it writes a plain number, as it does not say of what; unknown: it does not say what is counted.';
comment on column dw.fact_license_reading.items is 'Amount in the product''s unit; a duration that the vendor writes as H:MM:SS is in minutes. A counter is month to date.';
comment on column mart.license_snapshot.unit is 'What items counts. time: minutes where items_text is H:MM:SS; a plain number is as delivered, the vendor does not say of what. unknown: it does not say what is counted.';
comment on column mart.license_snapshot.items is 'Amount at the last reading of the day; a duration that the vendor writes as H:MM:SS is in minutes.';
comment on column mart.license_high_water.unit is 'Unit of items; time and unknown as in mart.license_snapshot.';
comment on column mart.statement.unit is 'TiB-month (one TiB through a calendar month), or what the wolkvox product counts; time and unknown as in mart.license_snapshot.';

-- +goose Down
comment on column mart.statement.unit is 'TiB-month (one TiB through a calendar month), or what the wolkvox product counts.';
comment on column mart.license_high_water.unit is 'Unit of items; durations (time) are minutes.';
comment on column mart.license_snapshot.items is 'Amount at the last reading of the day; durations in minutes.';
comment on column mart.license_snapshot.unit is 'What items counts.';
comment on column dw.fact_license_reading.items is 'Amount in the product''s unit; durations in minutes. A counter is month to date.';
comment on column dw.dim_product.unit is 'What items counts; "as delivered" where the vendor does not say.';

-- The things facts are about. Keys are surrogate bigints, never updated; key text sorts by bytes.
-- New tables: locks nothing; nothing to replay.

-- +goose Up
create table dw.dim_customer (
    customer_key bigint generated always as identity constraint dim_customer_pkey primary key,
    customer_id text collate "C" not null constraint dim_customer_id_key unique,
    customer_name text,
    account text not null,
    first_seen_at timestamptz not null,
    seen_at timestamptz not null,
    absent_since timestamptz
);
comment on table dw.dim_customer is 'Grain: one row per Keystone customer.';
comment on column dw.dim_customer.customer_key is 'Surrogate key.';
comment on column dw.dim_customer.customer_id is 'The vendor''s id, opaque text.';
comment on column dw.dim_customer.customer_name is 'Display name as last told; NULL when the vendor does not say.';
comment on column dw.dim_customer.account is 'Configured account that sees it.';
comment on column dw.dim_customer.first_seen_at is 'Business clock of the answer that named it first.';
comment on column dw.dim_customer.seen_at is 'Business clock of the answer that the name is from.';
comment on column dw.dim_customer.absent_since is 'Business clock since which the list of customers lacks it; NULL while listed.';

create table dw.dim_subscription (
    subscription_key bigint generated always as identity constraint dim_subscription_pkey primary key,
    customer_key bigint not null constraint dim_subscription_customer_fkey references dw.dim_customer (customer_key),
    subscription_number text collate "C" not null,
    discriminator text collate "C" not null default '',
    start_at timestamptz,
    end_at timestamptz,
    first_seen_at timestamptz not null,
    constraint dim_subscription_number_key unique (customer_key, subscription_number, discriminator)
);
comment on table dw.dim_subscription is 'Grain: one row per subscription of a customer.';
comment on column dw.dim_subscription.subscription_key is 'Surrogate key.';
comment on column dw.dim_subscription.customer_key is 'The customer.';
comment on column dw.dim_subscription.subscription_number is 'The vendor''s number, as delivered.';
comment on column dw.dim_subscription.discriminator is 'Empty for the first subscription seen with this number; tells others with the same number apart.';
comment on column dw.dim_subscription.start_at is 'Start by which records are recognised, whole seconds UTC; terms are in fact_subscription.';
comment on column dw.dim_subscription.end_at is 'End by which records are recognised, whole seconds UTC; NULL when open or unknown.';
comment on column dw.dim_subscription.first_seen_at is 'Business clock of the answer that named it first.';

create table dw.level_class_map (
    pattern text not null constraint level_class_map_pkey primary key,
    level_class text not null,
    constraint level_class_map_class_known check (level_class in ('base', 'add_on', 'unclassified'))
);
comment on table dw.level_class_map is 'Grain: one row per pattern of service level names. Edit freely: the levels follow.';
comment on column dw.level_class_map.pattern is 'Name of a level, case ignored; * stands for any text. The longest matching pattern counts.';
comment on column dw.level_class_map.level_class is 'base, add_on (mirrors or extends base capacity; never summed with it) or unclassified.';

insert into dw.level_class_map (pattern, level_class) values
    ('Extreme', 'base'), ('Premium', 'base'), ('Performance', 'base'), ('Standard', 'base'), ('Value', 'base'),
    ('Object', 'base'), ('CVO*', 'base'),
    ('*Data-Protect*', 'add_on'), ('DII*', 'add_on'), ('*Tiering', 'add_on'), ('NRNVC*', 'add_on'), ('SnapLock*', 'add_on');

-- +goose StatementBegin
create function dw.classify_level(name text) returns text
language sql stable
set search_path = pg_catalog
as $$
    select coalesce(
        (
            select m.level_class
            from dw.level_class_map as m
            where lower(name) like replace(replace(replace(replace(lower(m.pattern), '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')
            order by length(m.pattern) desc, m.pattern
            limit 1
        ),
        'unclassified'
    )
$$;
-- +goose StatementEnd
comment on function dw.classify_level(text) is 'Class of a service level name by dw.level_class_map; unclassified when no pattern fits.';

create table dw.dim_service_level (
    service_level_key bigint generated always as identity constraint dim_service_level_pkey primary key,
    customer_key bigint not null constraint dim_service_level_customer_fkey references dw.dim_customer (customer_key),
    subscription_key bigint not null constraint dim_service_level_subscription_fkey references dw.dim_subscription (subscription_key),
    service_level text collate "C" not null,
    level_ordinal integer not null default 0 constraint dim_service_level_ordinal_counts check (level_ordinal >= 0),
    level_class text not null constraint dim_service_level_class_known check (level_class in ('base', 'add_on', 'unclassified')),
    constraint dim_service_level_name_key unique (customer_key, subscription_key, service_level, level_ordinal)
);
create index dim_service_level_subscription_idx on dw.dim_service_level (subscription_key);
comment on table dw.dim_service_level is 'Grain: one row per instance of a service level of a subscription.';
comment on column dw.dim_service_level.service_level_key is 'Surrogate key.';
comment on column dw.dim_service_level.customer_key is 'The customer.';
comment on column dw.dim_service_level.subscription_key is 'The subscription.';
comment on column dw.dim_service_level.service_level is 'Name as delivered.';
comment on column dw.dim_service_level.level_ordinal is '0-based instance among equal names. Ordinals of different reports of the vendor need not mean the same instance.';
comment on column dw.dim_service_level.level_class is 'base, add_on or unclassified, by dw.level_class_map. Never sum across classes.';

-- +goose StatementBegin
create function dw.reclassify_levels() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    update dw.dim_service_level
    set level_class = dw.classify_level(service_level)
    where level_class <> dw.classify_level(service_level);
    return null;
end
$$;
-- +goose StatementEnd
comment on function dw.reclassify_levels() is 'Trigger: brings dim_service_level in line after an edit of level_class_map.';
create trigger level_class_map_changed after insert or update or delete on dw.level_class_map
    for each statement execute function dw.reclassify_levels();

create table dw.dim_product (
    product_key bigint generated always as identity constraint dim_product_pkey primary key,
    product_number integer not null,
    api text collate "C" not null constraint dim_product_api_key unique,
    title text not null,
    unit text not null,
    kind text not null constraint dim_product_kind_known check (kind in ('gauge', 'counter'))
);
comment on table dw.dim_product is 'Grain: one row per wolkvox billing report. Titles and units may be edited.';
comment on column dw.dim_product.product_key is 'Surrogate key.';
comment on column dw.dim_product.product_number is 'Number in the vendor''s catalogue.';
comment on column dw.dim_product.api is 'The vendor''s name of the report.';
comment on column dw.dim_product.title is 'Title for people.';
comment on column dw.dim_product.unit is 'What items counts; "as delivered" where the vendor does not say.';
comment on column dw.dim_product.kind is 'gauge (state now) or counter (grows from the start of the local month).';

create table dw.dim_operation (
    operation_key bigint generated always as identity constraint dim_operation_pkey primary key,
    account text collate "C" not null,
    operation text collate "C" not null,
    server text not null,
    zone text not null,
    first_seen_at timestamptz not null,
    constraint dim_operation_name_key unique (account, operation)
);
comment on table dw.dim_operation is 'Grain: one row per wolkvox operation (tenant) of a configured account.';
comment on column dw.dim_operation.operation_key is 'Surrogate key.';
comment on column dw.dim_operation.account is 'Configured account.';
comment on column dw.dim_operation.operation is 'Name of the operation as delivered; the first good reading pins it for the account.';
comment on column dw.dim_operation.server is 'Server code of the account as configured.';
comment on column dw.dim_operation.zone is 'Zone in which days and months of the operation are counted.';
comment on column dw.dim_operation.first_seen_at is 'Business clock of the answer that named it first.';

create table dw.dim_date (
    calendar_date date not null constraint dim_date_pkey primary key,
    year integer not null,
    quarter integer not null,
    month integer not null,
    month_start date not null,
    days_in_month integer not null,
    day_of_month integer not null,
    iso_year integer not null,
    iso_week integer not null,
    iso_weekday integer not null,
    is_month_end boolean not null
);
insert into dw.dim_date
select
    d::date,
    extract(year from d)::integer,
    extract(quarter from d)::integer,
    extract(month from d)::integer,
    date_trunc('month', d)::date,
    extract(day from date_trunc('month', d) + interval '1 month - 1 day')::integer,
    extract(day from d)::integer,
    extract(isoyear from d)::integer,
    extract(week from d)::integer,
    extract(isodow from d)::integer,
    extract(month from d + interval '1 day') <> extract(month from d)
from generate_series(timestamp '2015-01-01', timestamp '2049-12-31', interval '1 day') as d;
comment on table dw.dim_date is 'Grain: one row per calendar day, 2015 to 2049.';
comment on column dw.dim_date.calendar_date is 'The day.';
comment on column dw.dim_date.year is 'Calendar year.';
comment on column dw.dim_date.quarter is 'Calendar quarter, 1 to 4.';
comment on column dw.dim_date.month is 'Month, 1 to 12.';
comment on column dw.dim_date.month_start is 'First day of its month.';
comment on column dw.dim_date.days_in_month is 'Days of its month.';
comment on column dw.dim_date.day_of_month is 'Day of the month, 1 to 31.';
comment on column dw.dim_date.iso_year is 'Year of the ISO week.';
comment on column dw.dim_date.iso_week is 'ISO week, 1 to 53.';
comment on column dw.dim_date.iso_weekday is 'ISO weekday, Monday is 1.';
comment on column dw.dim_date.is_month_end is 'Whether it is the last day of its month.';

-- +goose Down
drop table dw.dim_date;
drop table dw.dim_operation;
drop table dw.dim_product;
drop table dw.dim_service_level;
drop table dw.level_class_map;
drop function dw.reclassify_levels();
drop function dw.classify_level(text);
drop table dw.dim_subscription;
drop table dw.dim_customer;

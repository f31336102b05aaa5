{# Tests check only the rows that the run restated; with the variable `full_tests` (once a day), they check all rows. #}
{% macro get_where_subquery(relation) -%}
    {%- set tested = modules.re.search("ref\\(['\"](\\w+)", model.test_metadata.kwargs.model | string) -%}
    {%- set part = restated_part(tested.group(1)) if tested else 'TRUE' -%}
    {%- if part | trim == 'TRUE' -%} {%- do return(relation) -%} {%- endif -%}
    {%- do return('(SELECT * FROM ' ~ relation ~ ' WHERE ' ~ part ~ ') AS restated_rows') -%}
{%- endmacro %}

{# The condition for the rows of a model that the run may have changed. It is FALSE for two views, which are tested only
   with `full_tests`. #}
{% macro restated_part(model_name) -%}
    {%- if model_name in ('stg_events', 'stg_geofence_events', 'stg_pickups') -%}
        {%- set part = among('event_date', ref('touched_days'), 'event_date') -%}
    {%- elif model_name == 'event_conflicts' -%}
        {%- set part = in_hours_of('received_at', ref('touched_events'), 'received_hour', 'has_conflict') -%}
    {%- elif model_name == 'event_ledger' -%}
        {%- set part = of_this_run() -%}
    {%- elif model_name == 'geofence_visits' -%}
        {%- set part = among('entered_date', ref('restated_days'), 'event_date') -%}
    {%- elif model_name in ('geofence_pair_days', 'fleet_daily') -%}
        {%- set part = among('event_date', ref('restated_days'), 'event_date') -%}
    {%- elif model_name == 'daily_farm_collections' -%}
        {%- set part = among('collection_date', ref('restated_days'), 'event_date') -%}
    {%- elif model_name == 'ingest_quality' -%}
        {%- set part = in_hours_of('received_hour', ref('restated_hours'), 'received_hour') -%}
    {%- elif model_name in ('invalid_rows', 'stg_rejected_events') -%}
        {%- set part = 'scanned_at > ' ~ mark('read_from') ~ ' AND scanned_at <= ' ~ mark('scanned_through') -%}
    {%- elif model_name in ('geofence_pairs', 'current_presence') -%}
        {%- set part = 'FALSE' -%}
    {%- endif -%}
    {%- do return('TRUE' if var('full_tests') or not part else part) -%}
{%- endmacro %}

{# These macros determine which rows an incremental run reads and restates, and how the restated rows replace the
   previous ones.

   Days and hours are written into the statements as literals, because Snowflake prunes no micro-partitions by a
   predicate that has a subquery ("Micro-partitions & Data Clustering"). #}

{# The beginning of time, for a run that reads everything. Without its offset, the text would be a time in the session's
   time zone. #}
{% macro epoch() -%} '1970-01-01T00:00:00+00:00'::TIMESTAMP_LTZ {%- endmacro %}

{# The relation that holds the last complete run's mark; none if the run reads the whole history. #}
{% macro completed_run() -%}
    {% if execute and not flags.FULL_REFRESH %}
        {% do return(adapter.get_relation(this.database, this.schema, 'completed_run')) %}
    {% endif %}
    {% do return(none) %}
{%- endmacro %}

{# A column of high_water_mark, as a literal. #}
{% macro mark(column) -%} {{ time_in(ref('high_water_mark'), column) }} {%- endmacro %}

{# A time in a one-row table, as a literal. #}
{% macro time_in(relation, column) -%}
    {%- if execute -%}
        {%- set found = run_query("SELECT TO_CHAR(CONVERT_TIMEZONE('UTC', " ~ column ~ "), 'YYYY-MM-DD HH24:MI:SS.FF6') FROM " ~ relation).columns[0].values() -%}
        '{{ found[0] }} +00:00'::TIMESTAMP_LTZ
    {%- else -%} {{ epoch() }}
    {%- endif -%}
{%- endmacro %}

{# Whether this table exists and has the column read_through, which holds the mark of the run that added the row. #}
{% macro keeps_read_through() -%}
    {% if not execute %}{% do return(false) %}{% endif %}
    {% set relation = adapter.get_relation(this.database, this.schema, this.identifier) %}
    {% if not relation %}{% do return(false) %}{% endif %}
    {% set names = adapter.get_columns_in_relation(relation) | map(attribute='name') | map('upper') | list %}
    {% do return('READ_THROUGH' in names) %}
{%- endmacro %}

{# Whether new_events contains the whole history. #}
{% macro reads_everything() -%}
    {% if not execute %}{% do return(true) %}{% endif %}
    {% do return('1970-01-01 00:00:00' in mark('read_from')) %}
{%- endmacro %}

{# The events that are new to a model: those of this run, or all events if the model itself is rebuilt. #}
{% macro arrivals() -%}
    {% set new_events, typed_events = ref('new_events'), ref('typed_events') %}
    {%- if is_incremental() or reads_everything() -%}
        (SELECT *, {{ mark('scanned_through') }} AS read_through FROM {{ new_events }} WHERE invalid_code IS NULL)
    {%- else -%}
        (
            SELECT
                events.*,
                CAST(events.occurred_at AS DATE) AS event_date,
                DATE_TRUNC('hour', events.received_at) AS received_hour,
                IFF(
                    arrived.scanned_at IS NULL, {{ mark('completed_through') }}, {{ mark('scanned_through') }}
                ) AS read_through
            FROM {{ typed_events }} AS events
            LEFT JOIN {{ new_events }} AS arrived
                ON
                    events.file_name = arrived.file_name
                    AND events.file_row_number = arrived.file_row_number
                    AND events.scanned_at = arrived.scanned_at
            WHERE events.invalid_code IS NULL AND events.scanned_at <= {{ mark('scanned_through') }}
        )
    {%- endif -%}
{%- endmacro %}

{# The condition that this run, or an earlier attempt at it, has added a row. #}
{% macro of_this_run() -%} read_through > {{ mark('completed_through') }} {%- endmacro %}

{# The ledger as of the last run; none if the run reads the whole history. Fails if the ledger does not exist. #}
{% macro ledger_before() -%}
    {% if not execute or reads_everything() %}{% do return(none) %}{% endif %}
    {% set ledger = adapter.get_relation(this.database, this.schema, 'event_ledger') %}
    {% if not ledger %}
        {% do exceptions.raise_compiler_error('event_ledger does not exist, so duplicates cannot be found. Run: dbt build --full-refresh') %}
    {% endif %}
    {% do return(ledger) %}
{%- endmacro %}

{# The distinct values of a query's first column, as texts. #}
{% macro values_of(query) -%}
    {% if not execute %}{% do return([]) %}{% endif %}
    {% set found = [] %}
    {% for value in run_query(query).columns[0].values() if value is not none %}{% do found.append(value ~ '') %}{% endfor %}
    {% do return(found | unique | sort) %}
{%- endmacro %}

{# The condition that `column` is one of `days` (sorted) or, if there are over 400, between the first and the last. #}
{% macro one_of_days(column, days) -%}
    {%- if not days -%} FALSE
    {%- elif days | length > 400 -%} {{ column }} BETWEEN '{{ days[0][:10] }}'::DATE AND '{{ days[-1][:10] }}'::DATE
    {%- else -%} {{ column }} IN ({% for day in days %}'{{ day[:10] }}'::DATE{{ ', ' if not loop.last }}{% endfor %})
    {%- endif -%}
{%- endmacro %}

{# The condition that `column` is one of the days that the expression `days` has in `relation`'s rows with `condition`
   or, if there are over 400, between the first and the last. #}
{% macro among(column, relation, days, condition='TRUE') -%}
    {{ one_of_days(column, values_of('SELECT DISTINCT ' ~ days ~ '::VARCHAR FROM ' ~ relation ~ ' WHERE ' ~ condition)) }}
{%- endmacro %}

{# The condition that the time `column` is in one of the hours that the expression `hours` has in `relation`'s rows with
   `condition` or, if there are over 400, between the first and the last. #}
{% macro in_hours_of(column, relation, hours, condition='TRUE') -%}
    {{ in_hours(column, values_of('SELECT DISTINCT ' ~ hours ~ '::VARCHAR FROM ' ~ relation ~ ' WHERE ' ~ condition)) }}
{%- endmacro %}

{% macro in_hours(column, hours) -%}
    {%- if not hours -%} FALSE
    {%- elif hours | length > 400 -%}
        ({{ column }} >= '{{ hours[0][:19] }}'::TIMESTAMP_NTZ
        AND {{ column }} < DATEADD('hour', 1, '{{ hours[-1][:19] }}'::TIMESTAMP_NTZ))
    {%- else -%}
        ({% for hour in hours %}
            ({{ column }} >= '{{ hour[:19] }}'::TIMESTAMP_NTZ
            AND {{ column }} < '{{ hour_after(hour[:19]) }}'::TIMESTAMP_NTZ)
            {{ 'OR ' if not loop.last }}
        {% endfor %})
    {%- endif -%}
{%- endmacro %}

{% macro hour_after(hour) -%}
    {% set form = '%Y-%m-%d %H:%M:%S' %}
    {% do return((modules.datetime.datetime.strptime(hour, form) + modules.datetime.timedelta(hours=1)).strftime(form)) %}
{%- endmacro %}

{# Our incremental strategy `restate` for dbt: delete the restated rows and insert the new ones in one transaction. The
   new rows are a view, so that a run need not write them to a table first. This is safe, because every model's query
   returns the same rows before and after its deletes. #}
{% macro get_incremental_restate_sql(arg_dict) -%}
    {% set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) %}
    {% set dml -%}
        {% for rows in restated(model.config.meta.restates, arg_dict['temp_relation']) %}
            DELETE FROM {{ arg_dict['target_relation'] }} AS dbt_internal_dest
            {{ rows }};
        {% endfor %}
        INSERT INTO {{ arg_dict['target_relation'] }} ({{ columns }})
        (SELECT {{ columns }} FROM {{ arg_dict['temp_relation'] }})
    {%- endset %}
    {% do return(snowflake_dml_explicit_transaction(dml)) %}
{%- endmacro %}

{# The rows to delete: the USING and WHERE clauses of the DELETE statements. Conditions on different columns become
   separate statements, so that Snowflake can prune by each of them. #}
{% macro restated(what, rows) -%}
    {% set clauses = [] %}
    {% if what in ('visits', 'heads') and reads_everything() %}
        {# An interrupted first run may have left rows, and there are no windows yet. #}
        {% do clauses.append('') %}
    {% elif what == 'ledger' %}
        {% do clauses.extend(added_before(['event_key', 'content_hash', 'received_hour'], rows)) %}
    {% elif what == 'events' %}
        {% do clauses.extend(added_before(['event_key'], rows) + stored_before('event_key', rows, 'may_replace')) %}
    {% elif what == 'geofence_events' %}
        {% do clauses.extend(
            added_before(['geofence_event_key'], rows) + stored_before('geofence_event_key', rows, 'has_conflict')
        ) %}
    {% elif what == 'pickups' %}
        {% do clauses.append('WHERE ' ~ of_this_run()) %}
        {% set days = replaced_days('may_replace') %}
        {% if days %}
            {% do clauses.append(
                'WHERE ' ~ one_of_days('event_date', days)
                ~ ' AND event_key IN (SELECT event_key FROM ' ~ ref('touched_events') ~ ' WHERE may_replace)'
            ) %}
        {% endif %}
    {% elif what == 'conflicts' %}
        {% do clauses.append(
            'WHERE ' ~ in_hours_of('received_at', ref('touched_events'), 'received_hour', 'has_conflict')
            ~ ' AND event_key IN (SELECT event_key FROM ' ~ ref('touched_events') ~ ')'
        ) %}
    {% elif what == 'visits' %}
        {% do clauses.append(
            'USING ' ~ ref('visit_windows') ~ ' AS windows'
            ~ ' WHERE dbt_internal_dest.device_fence_key = windows.device_fence_key'
            ~ ' AND dbt_internal_dest.entered_at >= windows.restates_from'
            ~ ' AND dbt_internal_dest.entered_at < windows.ends_at'
            ~ ' AND ' ~ among('dbt_internal_dest.entered_date', ref('restated_days'), 'event_date')
        ) %}
    {% elif what == 'heads' %}
        {% do clauses.append('WHERE device_fence_key IN (SELECT device_fence_key FROM ' ~ ref('visit_windows') ~ ')') %}
    {% elif what == 'hours' %}
        {% do clauses.append('WHERE ' ~ in_hours_of('received_hour', ref('restated_hours'), 'received_hour')) %}
    {% else %}
        {% do clauses.append('WHERE ' ~ among(what, ref('restated_days'), 'event_date')) %}
    {% endif %}
    {% do return(clauses) %}
{%- endmacro %}

{# The rows that an earlier attempt at this run has added; usually there are none. #}
{% macro added_before(keys, rows) -%}
    {% if not values_of('SELECT 1 FROM ' ~ this ~ ' WHERE ' ~ of_this_run() ~ ' LIMIT 1') %}{% do return([]) %}{% endif %}
    {% set same = [] %}
    {% for key in keys %}{% do same.append('dbt_internal_dest.' ~ key ~ ' = again.' ~ key) %}{% endfor %}
    {% do return([
        'USING ' ~ rows ~ ' AS again WHERE dbt_internal_dest.' ~ of_this_run() ~ ' AND ' ~ same | join(' AND ')
    ]) %}
{%- endmacro %}

{# The rows that an earlier run stored under a key of this run, on the days that the ledger names. #}
{% macro stored_before(key, rows, condition) -%}
    {% set in_rows = key ~ ' IN (SELECT ' ~ key ~ ' FROM ' ~ rows ~ ')' %}
    {% set days = replaced_days(condition) %}
    {% do return(['WHERE ' ~ one_of_days('event_date', days) ~ ' AND ' ~ in_rows] if days else []) %}
{%- endmacro %}

{# The days of the rows of touched_events that meet a condition. #}
{% macro replaced_days(condition) -%}
    {% do return(values_of(
        'SELECT DISTINCT event_date::VARCHAR FROM ' ~ ref('touched_events') ~ ' WHERE ' ~ condition
    )) %}
{%- endmacro %}

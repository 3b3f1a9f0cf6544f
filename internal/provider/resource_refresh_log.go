package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timetypes/timetypes"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

var (
	_ resource.Resource                = (*refreshLogResource)(nil)
	_ resource.ResourceWithConfigure   = (*refreshLogResource)(nil)
	_ resource.ResourceWithModifyPlan  = (*refreshLogResource)(nil)
	_ resource.ResourceWithImportState = (*refreshLogResource)(nil)
)

type refreshLogResource struct {
	client *client
}

// NewRefreshLogResource makes matview_refresh_log.
func NewRefreshLogResource() resource.Resource { return &refreshLogResource{} }

type refreshLogModel struct {
	ID                 types.String         `tfsdk:"id"`
	Schema             types.String         `tfsdk:"schema"`
	HistoryRetention   timetypes.GoDuration `tfsdk:"history_retention"`
	TrackExternal      types.Bool           `tfsdk:"track_external_refreshes"`
	WriterRoles        types.Set            `tfsdk:"writer_roles"`
	ReaderRoles        types.Set            `tfsdk:"reader_roles"`
	DeletionProtection types.Bool           `tfsdk:"deletion_protection"`
	Version            types.Int64          `tfsdk:"version"`
}

// createdKey is set in the private state if this resource created the log table. One
// that existed before, or was imported, is never dropped.
const createdKey = "log_table_created"

func (r *refreshLogResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_refresh_log"
}

func (r *refreshLogResource) Configure(_ context.Context, req resource.ConfigureRequest, resp *resource.ConfigureResponse) {
	r.client = clientFrom(req.ProviderData, &resp.Diagnostics)
}

// ModifyPlan sets what is known before apply: the schema, and the version that this
// provider installs.
func (r *refreshLogResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	var state *refreshLogModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if req.Plan.Raw.IsNull() {
		// At plan, because an apply would first destroy what depends on the log.
		state.refuseDestroy(&resp.Diagnostics)
		return
	}
	if r.client == nil {
		return
	}
	var plan refreshLogModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	schema := r.client.planSchema(ctx, req.Config, path.Root("schema"), &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	plan.Schema, plan.ID = schema, schema
	plan.Version = types.Int64Value(int64(migrations.Version()))
	if state != nil {
		// Tables of a later release are not touched until something else changes.
		plan.Version = types.Int64Value(max(plan.Version.ValueInt64(), state.Version.ValueInt64()))
		if !state.Schema.Equal(plan.Schema) {
			resp.RequiresReplace = append(resp.RequiresReplace, path.Root("schema"))
			state.refuseDestroy(&resp.Diagnostics)
		}
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
	var before refreshLogModel
	if state != nil {
		before = *state
	}
	r.checkRoles(ctx, path.Root("writer_roles"), plan.WriterRoles, before.WriterRoles, &resp.Diagnostics)
	r.checkRoles(ctx, path.Root("reader_roles"), plan.ReaderRoles, before.ReaderRoles, &resp.Diagnostics)
}

// checkRoles warns of added roles that do not exist; the same apply may create them.
func (r *refreshLogResource) checkRoles(ctx context.Context, attribute path.Path, planned, before types.Set, diags *diag.Diagnostics) {
	known := setStrings(before)
	added := slices.DeleteFunc(setStrings(planned), func(role string) bool { return role == "" || slices.Contains(known, role) })
	if len(added) == 0 {
		return
	}
	pool, err := r.client.planPool(ctx, diags)
	if pool == nil && err == nil {
		return
	}
	var unknown []string
	if err == nil {
		err = postgres.Retry(ctx, func() (err error) {
			unknown, err = migrations.Unknown(ctx, pool, added)
			return err
		})
	}
	if err != nil {
		addError(diags, "Cannot check the roles", err)
		return
	}
	for _, role := range unknown {
		diags.AddAttributeWarning(attribute, "The role does not exist yet",
			fmt.Sprintf("There is no role %s. Unless this apply creates it before it comes to the refresh log (see depends_on), it will fail.", postgres.QuoteIdent(role)))
	}
}

func (r *refreshLogResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan refreshLogModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if resp.Diagnostics.HasError() {
		return
	}
	adopted, err := r.install(ctx, plan, migrations.Roles{})
	if err != nil {
		addError(&resp.Diagnostics, "Cannot install the refresh log in schema "+plan.Schema.ValueString(), err)
		return
	}
	if !adopted {
		resp.Diagnostics.Append(resp.Private.SetKey(ctx, createdKey, []byte("true"))...)
	}
	plan.ID = plan.Schema
	plan.Version = types.Int64Value(int64(migrations.Version()))
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
}

func (r *refreshLogResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state refreshLogModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	pool, err := r.client.open(ctx)
	if resp.Diagnostics.HasError() || errors.Is(err, errUnknownConfig) {
		return // the state stays as it was last read
	}
	if err != nil {
		addError(&resp.Diagnostics, "Cannot read the refresh log", err)
		return
	}
	schema := state.Schema.ValueString()
	exists := false
	err = postgres.Retry(ctx, func() (err error) {
		if exists, err = migrations.Exists(ctx, pool, schema); err == nil && exists {
			err = postgres.Vanished(state.refresh(ctx, pool))
		}
		return err
	})
	if err != nil {
		addError(&resp.Diagnostics, "Cannot read the refresh log in schema "+schema, err)
		return
	}
	if !exists {
		resp.State.RemoveResource(ctx)
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
}

func (r *refreshLogResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state refreshLogModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if _, err := r.install(ctx, plan, state.roles()); err != nil {
		addError(&resp.Diagnostics, "Cannot change the refresh log in schema "+plan.Schema.ValueString(), err)
		return
	}
	plan.Version = types.Int64Value(int64(migrations.Version()))
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
}

// refuseDestroy adds an error if the state has deletion_protection.
func (m *refreshLogModel) refuseDestroy(diags *diag.Diagnostics) (refused bool) {
	if m == nil || !m.DeletionProtection.ValueBool() {
		return false
	}
	diags.AddAttributeError(path.Root("deletion_protection"), "The refresh log is protected from deletion",
		fmt.Sprintf("Destroying it drops the schedules, the refresh history and the record of how fresh each view is in schema %q. "+
			"To do that, set deletion_protection to false and apply first.", m.Schema.ValueString()))
	return true
}

func (r *refreshLogResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state refreshLogModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	created, diags := req.Private.GetKey(ctx, createdKey)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	if state.refuseDestroy(&resp.Diagnostics) {
		return
	}
	schema := state.Schema.ValueString()
	err := r.client.withConn(ctx, func(conn *pgx.Conn) error {
		return migrations.Uninstall(ctx, conn, schema, state.roles(), len(created) > 0)
	})
	if err != nil {
		addError(&resp.Diagnostics, "Cannot remove the refresh log from schema "+schema, err)
	}
}

// ImportState accepts the schema as the ID. Roles cannot be distinguished from those
// that were granted privileges by hand, so the next apply grants to those configured.
func (r *refreshLogResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	if err := checkIdentifier(req.ID); err != nil {
		resp.Diagnostics.AddError("Invalid import ID", "The import ID is the schema of the refresh log, such as public: "+err.Error())
		return
	}
	for name, value := range map[string]any{"id": req.ID, "schema": req.ID, "deletion_protection": true} {
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(name), value)...)
	}
}

func (r *refreshLogResource) install(ctx context.Context, plan refreshLogModel, before migrations.Roles) (adopted bool, err error) {
	retention, err := time.ParseDuration(plan.HistoryRetention.ValueString())
	if err != nil {
		return false, err
	}
	err = r.client.withConn(ctx, func(conn *pgx.Conn) error {
		adopted, err = migrations.Install(ctx, conn, plan.Schema.ValueString(),
			migrations.Installation{HistoryRetention: retention, TrackExternal: plan.TrackExternal.ValueBool(), Roles: plan.roles()}, before)
		return err
	})
	return adopted, err
}

// refresh reads what is installed: version 0 if anything is missing, and only the
// roles that have all the privileges they need.
func (m *refreshLogModel) refresh(ctx context.Context, db postgres.Querier) error {
	schema := m.Schema.ValueString()
	version, err := migrations.Installed(ctx, db, schema)
	if err != nil {
		return err
	}
	m.ID = m.Schema
	m.Version = types.Int64Value(int64(version))
	if version == 0 {
		return nil
	}
	retention, err := store.New(schema).HistoryRetention(ctx, db)
	if err != nil {
		return err
	}
	m.HistoryRetention = timetypes.NewGoDurationValue(retention)
	tracks, err := migrations.Tracking(ctx, db, schema)
	if err != nil {
		return err
	}
	m.TrackExternal = types.BoolValue(tracks)
	equipped, err := migrations.Equipped(ctx, db, schema, m.roles())
	if err != nil {
		return err
	}
	m.WriterRoles = stringSet(equipped.Writers, m.WriterRoles)
	m.ReaderRoles = stringSet(equipped.Readers, m.ReaderRoles)
	return nil
}

func (m *refreshLogModel) roles() migrations.Roles {
	return migrations.Roles{Writers: setStrings(m.WriterRoles), Readers: setStrings(m.ReaderRoles)}
}

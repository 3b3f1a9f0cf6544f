package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// viewPlan is one plan: what is planned, from what, and what is known of it.
type viewPlan struct {
	pool        *pgxpool.Pool // nil while the provider's settings are unknown
	plan, state viewModel
	exists      bool // there is a state
	memory      viewMemory
	// normal is the planned definition, as far as it is known.
	normal  matview.Normal
	rebuilt bool // it means something else than the present one
	// concurrent is what supports_concurrent_refresh will be; null where not known.
	concurrent types.Bool
}

// ModifyPlan checks the definition and the indexes on the server, and takes text
// of the same meaning for no change. It does nothing on the server where no text
// has changed.
func (r *viewResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if r.client == nil || req.Plan.Raw.IsNull() {
		return
	}
	p := viewPlan{exists: !req.State.Raw.IsNull()}
	var config viewModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &p.plan)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	if p.exists {
		resp.Diagnostics.Append(req.State.Get(ctx, &p.state)...)
		p.memory = recall(ctx, req.Private, &resp.Diagnostics)
	}
	found := p.plan.putAside(config, &p.state)
	if resp.Diagnostics.HasError() || p.unchanged() {
		return
	}
	if p.exists && p.keepText(ctx, &resp.Diagnostics) && p.unchanged() {
		found.putBack(&p.plan)
		resp.Diagnostics.Append(resp.Plan.Set(ctx, &p.plan)...)
		return
	}
	var err error
	if p.exists {
		p.pool, err = r.client.open(ctx)
	} else {
		p.pool, err = r.client.planPool(ctx, &resp.Diagnostics)
	}
	if err != nil && !errors.Is(err, errUnknownConfig) {
		addError(&resp.Diagnostics, "Cannot check the materialized view", err)
		return
	}
	p.definition(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	p.indexes(ctx, &resp.Diagnostics)
	p.place(ctx, &resp.Diagnostics)
	p.schedule(ctx, r.client.logSchema, &resp.Diagnostics)
	p.owner(ctx, &resp.Diagnostics)
	if p.exists && (!p.plan.Name.Equal(p.state.Name) || !p.plan.Schema.Equal(p.state.Schema)) {
		p.plan.ID = types.StringUnknown()
		if p.pool != nil && !p.plan.Name.IsUnknown() && !p.plan.Schema.IsUnknown() {
			r.identify(ctx, resp.Identity, p.plan.name(), &resp.Diagnostics)
		}
	}
	found.putBack(&p.plan)
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &p.plan)...)
}

func (p *viewPlan) unchanged() bool {
	return p.exists && p.plan.sameText(p.state) && p.plan.Indexes.Equal(p.state.Indexes) &&
		p.plan.Name.Equal(p.state.Name) && p.plan.Schema.Equal(p.state.Schema) && p.plan.Owner.Equal(p.state.Owner)
}

// keepText plans the text in the state where the planned one differs from it in
// layout alone, as it does at every plan after a change of layout: Terraform
// writes no state where nothing is planned. It tells whether it did.
func (p *viewPlan) keepText(ctx context.Context, diags *diag.Diagnostics) (kept bool) {
	definition := p.plan.Definition
	if !definition.IsUnknown() && !definition.Equal(p.state.Definition) && p.plan.ColumnNames.Equal(p.state.ColumnNames) &&
		matview.SameText(definition.ValueString(), p.state.Definition.ValueString()) {
		p.plan.Definition, kept = p.state.Definition, true
	}
	if p.plan.Indexes.Equal(p.state.Indexes) || p.state.Indexes.IsNull() || p.plan.Indexes.IsNull() || !fullyKnown(ctx, p.plan.Indexes) {
		return kept
	}
	before, planned := p.state.Indexes.Elements(), p.plan.Indexes.Elements()
	was := p.state.indexes(ctx, diags)
	for name, x := range p.plan.indexes(ctx, diags) {
		if y, ok := was[name]; ok && !planned[name].Equal(before[name]) && x.SameText(y) {
			planned[name], kept = before[name], true
		}
	}
	value, d := types.MapValue(types.ObjectType{AttrTypes: indexTypes}, planned)
	diags.Append(d...)
	p.plan.Indexes = value
	return kept
}

// owner warns where the view could not be given to the planned owner as things
// are; the same apply may create the role, or grant it.
func (p *viewPlan) owner(ctx context.Context, diags *diag.Diagnostics) {
	owner := p.plan.Owner
	if p.pool == nil || owner.IsNull() || owner.IsUnknown() || p.exists && owner.Equal(p.state.Owner) {
		return
	}
	obstacle, err := matview.OwnerObstacle(ctx, p.pool, owner.ValueString(), p.plan.Schema.ValueString())
	if err != nil {
		addError(diags, "Cannot check the owner", err)
		return
	}
	if obstacle != "" {
		diags.AddAttributeWarning(path.Root("owner"), "The role cannot own the view yet", obstacle+". Unless this apply mends that before it comes to the view (see depends_on), it will fail.")
	}
}

func (p *viewPlan) definition(ctx context.Context, diags *diag.Diagnostics) {
	if p.exists && p.plan.sameText(p.state) {
		p.normal.Definition = p.state.CanonicalDefinition.ValueString()
		return
	}
	incomparable, unchanged := "the provider's connection settings are known only after apply", false
	if p.pool != nil && p.known(ctx) {
		n, same, err := p.compare(ctx)
		if p.exists && matview.IsLockTimeout(err) {
			// A refresh in progress must neither stop a plan nor make a diff.
			p.plan.Definition, p.normal.Definition = p.state.Definition, p.state.CanonicalDefinition.ValueString()
			diags.AddAttributeWarning(path.Root("definition"), "The definition was not compared",
				"What it reads is locked, by a refresh or a change of a table. It is planned as unchanged; plan again when that has ended.")
			return
		}
		p.normal, incomparable = n, n.Incomparable
		if err != nil {
			addPlanError(diags, "Invalid definition", err)
			if diags.HasError() {
				return
			}
			incomparable = "something that it reads is not there yet"
		}
		unchanged = same
	}
	if !p.exists {
		return
	}
	if unchanged {
		if p.plan.ColumnNames.Equal(p.state.ColumnNames) {
			p.plan.Definition = p.state.Definition
		}
		return
	}
	p.rebuilt = true
	p.plan.CanonicalDefinition = types.StringUnknown()
	p.plan.OutputColumns = types.ListUnknown(types.ObjectType{AttrTypes: columnTypes})
	p.plan.SupportsConcurrentRefresh = types.BoolUnknown()
	if p.pool != nil && p.known(ctx) {
		p.replacement(ctx, incomparable, diags)
	}
}

// compare has the server say what the planned definition is, and whether it means
// what the state's does.
func (p *viewPlan) compare(ctx context.Context) (n matview.Normal, same bool, err error) {
	n, err = matview.Normalize(ctx, p.pool, p.plan.Definition.ValueString(), p.plan.columnNames()...)
	if err == nil && p.exists {
		same, err = n.Means(ctx, p.pool, p.state.CanonicalDefinition.ValueString())
	}
	return n, same, err
}

// replacement says what a new definition does, and refuses it where something
// depends on the view. None of this waits for a refresh.
func (p *viewPlan) replacement(ctx context.Context, incomparable string, diags *diag.Diagnostics) {
	v, err := matview.Read(ctx, p.pool, p.state.name())
	if err != nil {
		addError(diags, "Cannot read the materialized view", err)
		return
	}
	if v == nil {
		return // planned without a refresh; apply will tell
	}
	// Terraform plans once more while it applies: what the query reads may have
	// been renamed since the state was written, and the view have followed.
	if stored, err := matview.Definition(ctx, p.pool, v.OID); err == nil {
		if same, err := p.normal.Means(ctx, p.pool, stored); err == nil && same {
			return
		}
	}
	if err := p.normal.RefuseReading(v); err != nil {
		addViewError(diags, "Invalid definition", err)
		return
	}
	if p.plan.OnDefinitionChange.ValueString() == onChangeSwap {
		p.swap(ctx, v, incomparable, diags)
		return
	}
	dependents, err := matview.Dependents(ctx, p.pool, v.OID)
	if err != nil {
		addError(diags, "Cannot read what depends on the materialized view", err)
		return
	}
	if len(dependents) > 0 && incomparable == "" {
		diags.AddAttributeError(path.Root("definition"), fmt.Sprintf("Materialized view %s cannot get a new definition", v.ID),
			"For that it is dropped and created again, but other objects use it:\n"+bullets(dependents)+"\n\nDrop them first, and create them again after; or let on_definition_change be \"swap\", which moves plain views along.")
		return
	}
	if !p.keepsIndexes(ctx, v, diags) {
		return
	}
	warning := "The new definition means something else than the present one. The view is dropped and created again in one transaction: readers wait until it is filled and indexed, and nothing changes if that fails. Owner, comment, privileges and indexes stay."
	if incomparable != "" {
		warning = "The text of the definition has changed, and whether its meaning has could not be told: " + incomparable + ". " +
			"Unless apply finds them equal, the view is dropped and created again in one transaction: readers wait until it is filled and indexed, and nothing changes if that fails. Owner, comment, privileges and indexes stay."
	}
	if len(dependents) > 0 {
		warning += " That would fail, as other objects use it:\n" + bullets(dependents)
	}
	columns := p.normal.Columns
	if columns == nil {
		columns = v.Columns
	}
	lost, err := matview.Lost(ctx, p.pool, v, columns, !p.plan.Indexes.IsNull())
	if err != nil {
		addError(diags, "Cannot read what belongs to the materialized view", err)
		return
	}
	if len(lost) > 0 {
		warning += " What is lost:\n" + bullets(lost)
	}
	diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("Materialized view %s will be rebuilt", v.ID), warning)
}

// known tells whether the whole query is.
func (p *viewPlan) known(ctx context.Context) bool {
	return !p.plan.Definition.IsUnknown() && fullyKnown(ctx, p.plan.ColumnNames)
}

// swap refuses a new definition where something could not be carried over to a
// new view, and says what goes with columns that are no longer there.
func (p *viewPlan) swap(ctx context.Context, v *matview.View, incomparable string, diags *diag.Diagnostics) {
	var dropped []string
	if !p.plan.Indexes.IsNull() {
		// Those that stay are checked with the new definition, as the others are.
		for _, x := range v.Indexes {
			dropped = append(dropped, x.Name)
		}
	}
	obstacles, err := matview.Obstacles(ctx, p.pool, v, p.normal.Columns, v.Storage.With(p.plan.storage()), dropped)
	if err != nil {
		addError(diags, "Cannot read what depends on the materialized view", err)
		return
	}
	if len(obstacles) > 0 && incomparable == "" {
		diags.AddAttributeError(path.Root("definition"), fmt.Sprintf("Materialized view %s cannot get a new definition", v.ID), obstaclesDetail(obstacles))
		return
	}
	if len(obstacles) == 0 && !p.keepsIndexes(ctx, v, diags) {
		return
	}
	var lost []string
	if p.normal.Columns != nil {
		if lost, err = matview.LostColumns(ctx, p.pool, v, p.normal.Columns); err != nil {
			addError(diags, "Cannot read what belongs to the materialized view", err)
			return
		}
	}
	if len(lost) > 0 {
		diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("Materialized view %s loses columns", v.ID), "With them goes:\n"+bullets(lost))
	}
	if incomparable != "" {
		diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("Materialized view %s may be replaced", v.ID),
			"The text of the definition has changed, and whether its meaning has could not be told: "+incomparable+". Unless apply finds them equal, a new view is built and exchanged for the old one."+failsFor(obstacles))
	}
}

// keepsIndexes refuses a new definition on which the indexes that are not managed
// could not be built again, as where a column has another type or is gone.
func (p *viewPlan) keepsIndexes(ctx context.Context, v *matview.View, diags *diag.Diagnostics) bool {
	if !p.plan.Indexes.IsNull() || p.normal.Definition == "" {
		return true
	}
	stored, err := matview.ReadIndexes(ctx, p.pool, v.OID)
	if err != nil {
		return true // as while it is refreshed; apply will tell
	}
	for _, x := range v.Indexes {
		if !x.Valid {
			delete(stored, x.Name)
		}
	}
	for name, x := range stored {
		x.Tablespace = "" // is for the view's owner, not for the session's role
		stored[name] = x
	}
	var indexErr *matview.IndexError
	if _, err = matview.NormalizeIndexes(ctx, p.pool, v.Name, p.normal.Definition, stored); !errors.As(err, &indexErr) {
		return true
	}
	diags.AddAttributeError(path.Root("definition"), fmt.Sprintf("Materialized view %s cannot get a new definition", v.ID),
		fmt.Sprintf("Its indexes are not managed and so are built again, but index %q could not be: %s\n\nDrop it first, or set indexes. Nothing was changed.", indexErr.Index, postgres.Message(indexErr.Err)))
	return false
}

func failsFor(obstacles []string) string {
	if len(obstacles) == 0 {
		return ""
	}
	return " That would fail, since this cannot be carried over:\n" + bullets(obstacles)
}

func (p *viewPlan) indexes(ctx context.Context, diags *diag.Diagnostics) {
	if p.exists && !p.rebuilt && p.plan.Indexes.Equal(p.state.Indexes) {
		return
	}
	if p.exists && p.plan.Indexes.IsNull() && !p.state.Indexes.IsNull() {
		diags.AddAttributeWarning(path.Root("indexes"), "Indexes are no longer managed",
			"Without the argument Terraform leaves the indexes of the view as they are. To drop them, write indexes = {}.")
		return
	}
	p.sameIndexes(ctx, diags)
	if p.exists && !p.plan.Indexes.Equal(p.state.Indexes) {
		p.plan.SupportsConcurrentRefresh = types.BoolUnknown()
	}
	if p.plan.SupportsConcurrentRefresh.IsUnknown() && !p.concurrent.IsNull() {
		p.plan.SupportsConcurrentRefresh = p.concurrent
	}
}

// sameIndexes checks the indexes whose text has changed, or all where the view
// they are on has, and takes those of the same meaning for unchanged.
func (p *viewPlan) sameIndexes(ctx context.Context, diags *diag.Diagnostics) {
	if p.pool == nil || p.normal.Definition == "" || p.plan.Indexes.IsNull() || !fullyKnown(ctx, p.plan.Indexes) {
		return
	}
	before := p.state.Indexes.Elements()
	planned := p.plan.Indexes.Elements()
	changed := p.plan.indexes(ctx, diags)
	for name, x := range planned {
		if old, ok := before[name]; ok && old.Equal(x) && !p.rebuilt {
			delete(changed, name)
		}
	}
	if diags.HasError() {
		return
	}
	normal := map[string]matview.Index{}
	if len(changed) > 0 {
		var err error
		normal, err = matview.NormalizeIndexes(ctx, p.pool, p.plan.name(), p.normal.Definition, changed)
		if err != nil {
			if attribute, _ := blamed(err); !attribute.Equal(path.Empty()) {
				addPlanError(diags, "Invalid index", err)
			}
			return // apply compares again
		}
	}
	p.supportsConcurrent(ctx, planned, normal)
	for name, x := range normal {
		if known, ok := p.memory.Indexes[name]; ok && before[name] != nil && known.Text == indexText(x) {
			planned[name] = before[name]
		}
	}
	value, d := types.MapValue(types.ObjectType{AttrTypes: indexTypes}, planned)
	diags.Append(d...)
	p.plan.Indexes = value
}

// supportsConcurrent fills in what is certain of all the planned indexes: those
// just checked, and those that stay as they are in the catalog.
func (p *viewPlan) supportsConcurrent(ctx context.Context, planned map[string]attr.Value, normal map[string]matview.Index) {
	known := map[string]bool{}
	if p.exists && !p.rebuilt {
		v, err := matview.Read(ctx, p.pool, p.state.name())
		if err != nil || v == nil {
			return // apply will tell
		}
		for _, x := range v.Indexes {
			if p.memory.Indexes[x.Name].Hash == x.Hash { // else apply builds it anew
				known[x.Name] = x.Concurrent
			}
		}
	}
	for name, x := range normal {
		known[name] = x.Concurrent
	}
	usable, certain := false, true
	for name := range planned {
		concurrent, ok := known[name]
		usable, certain = usable || concurrent, certain && ok
	}
	if usable || certain {
		p.concurrent = types.BoolValue(usable)
	}
}

// schedule warns where the view has a schedule of concurrent refreshes, which the
// planned indexes do not allow any more. The schedule's own plan sees only indexes
// that are there.
func (p *viewPlan) schedule(ctx context.Context, logSchema string, diags *diag.Diagnostics) {
	supports := p.plan.SupportsConcurrentRefresh
	if p.pool == nil || !p.exists || !p.state.SupportsConcurrentRefresh.ValueBool() || supports.IsUnknown() || supports.ValueBool() {
		return
	}
	row, found, err := store.New(logSchema).ScheduleOf(ctx, p.pool, p.state.ID.ValueString())
	if err != nil || !found || row.Method != string(refresh.Concurrently) { // the tables may not be there
		return
	}
	diags.AddAttributeWarning(path.Root("indexes"), fmt.Sprintf("Materialized view %s can no longer be refreshed concurrently", p.state.ID.ValueString()),
		"It loses its only unique index on plain columns without a condition, and every refresh of its schedule, whose method is \"concurrently\", would fail. Keep such an index, or let method be \"auto\".")
}

func fullyKnown(ctx context.Context, value attr.Value) bool {
	v, err := value.ToTerraformValue(ctx)
	return err == nil && v.IsFullyKnown()
}

// addPlanError is a warning where something is missing that the same apply may
// create.
func addPlanError(diags *diag.Diagnostics, summary string, err error) {
	attribute, sqlErr := blamed(err)
	switch {
	case sqlErr != nil && sqlErr.Missing():
		diags.AddAttributeWarning(attribute, "Not there yet", sqlErr.Explain()+"\n\nIf this apply creates it before the view (see depends_on), all is well; else the apply will fail.")
	case matview.IsLockTimeout(err): // no plan waits for a refresh, nor fails for one
		diags.AddAttributeWarning(path.Root("definition"), "Not checked yet", "What it reads is locked, by a refresh or a change of a table. The apply checks it, once that has ended.")
	case sqlErr == nil && attribute.Equal(path.Empty()): // no fault of the text
		addViewError(diags, "Cannot check the materialized view", err)
	default:
		addViewError(diags, summary, err)
	}
}

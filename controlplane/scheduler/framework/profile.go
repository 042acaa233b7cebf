package framework

import "fmt"

// Weighted is a score plugin with its weight in the sum.
type Weighted struct {
	ScorePlugin
	Weight int64
}

// Profile is the set of plugins that schedules the pods which name it.
type Profile struct {
	Name        string // spec.schedulerName
	QueueSort   QueueSortPlugin
	Filters     []FilterPlugin // in the order in which they are asked, local ones before the others
	PostFilters []PostFilterPlugin
	Scores      []Weighted
	Reserves    []ReservePlugin
	Permits     []PermitPlugin
	PreBinds    []PreBindPlugin
	Bind        BindPlugin
	PostBinds   []PostBindPlugin
}

// Check says what a profile lacks.
func (p *Profile) Check() error {
	switch {
	case p.Name == "":
		return fmt.Errorf("a profile has no name")
	case p.QueueSort == nil:
		return fmt.Errorf("profile %s has no queue sort plugin", p.Name)
	case p.Bind == nil:
		return fmt.Errorf("profile %s has no bind plugin", p.Name)
	}
	return nil
}

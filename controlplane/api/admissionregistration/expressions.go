package admissionregistration

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

const maxMatchConditions = 64

var baseEnvironment = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// plain compiles expressions that use no variables of their policy.
var plain = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(baseEnvironment()) })

// expressions checks the CEL of one object. It is for one validation only: the
// variables it has met stay with it.
type expressions struct {
	plugincel.Compiler
	composed *plugincel.CompositedCompiler // where the object has variables
	params   bool                          // the object names the kind of its parameters
	// stored are the expressions of the object before: they may use what
	// later versions took out.
	stored sets.Set[string]
}

func newExpressions(params, variables bool, stored []string) (*expressions, error) {
	e := &expressions{Compiler: plain(), params: params, stored: sets.New(stored...)}
	if !variables {
		return e, nil
	}
	composed, err := plugincel.NewCompositedCompiler(baseEnvironment())
	if err != nil {
		return nil, fmt.Errorf("make compiler of variables: %w", err)
	}
	e.Compiler, e.composed = composed, composed
	return e, nil
}

func (e *expressions) environment(expression string) environment.Type {
	if e.stored.Has(expression) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

// compile checks one expression with the variables it may use.
func (e *expressions) compile(what plugincel.ExpressionAccessor, may plugincel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	result := e.CompileCELExpression(what, may, e.environment(what.GetExpression()))
	return fault(what, result.Error, path)
}

func fault(what plugincel.ExpressionAccessor, problem *cel.Error, path *field.Path) field.ErrorList {
	if problem == nil {
		return nil
	}
	switch problem.Type {
	case cel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, problem.Detail)}
	case cel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, what.GetExpression(), problem.Detail)}
	}
	return field.ErrorList{field.InternalError(path, problem)}
}

// matchConditions checks what else has to be true of a request. Conditions
// never see variables.
func (e *expressions) matchConditions(list []admissionv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(list), maxMatchConditions))
	}
	names := sets.New[string]()
	outside := &expressions{Compiler: plain(), params: e.params, stored: e.stored}
	for i, c := range list {
		at := path.Index(i)
		if text := strings.TrimSpace(c.Expression); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			may := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}
			errs = append(errs, outside.compile(&matchconditions.MatchCondition{Expression: text}, may, at.Child("expression"))...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, invalid(at.Child("name"), c.Name, validation.IsQualifiedName(c.Name))...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
	}
	return errs
}

var (
	identifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")
	reserved   = strings.Fields("true false null in as break const continue else for function if import let loop package namespace return var void while")
)

// variables checks and keeps variables, in order: each may use those before it.
func (e *expressions) variables(list []admissionv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range list {
		at := path.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		switch {
		case strings.TrimSpace(v.Expression) == "":
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
		case e.composed == nil:
			errs = append(errs, field.InternalError(at, errors.New("variable composition is not allowed")))
		default:
			variable := &validating.Variable{Name: v.Name, Expression: v.Expression}
			may := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}
			result := e.composed.CompileAndStoreVariable(variable, may, e.environment(v.Expression))
			errs = append(errs, fault(variable, result.Error, at.Child("expression"))...)
		}
	}
	return errs
}

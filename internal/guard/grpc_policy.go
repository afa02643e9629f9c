package guard

import (
	"regexp"

	policy "github.com/moby/buildkit/sourcepolicy/pb"
)

// BuildKit asks a source policy before it takes anything from anywhere. It is the second wall: the first is the checked
// Dockerfile, which names nothing else. Rules are anchored regular expressions, because other forms match nothing where
// they are not understood; later rules win; and a rule that allows must also match the name with its digest.

func regexRule(action policy.PolicyAction, expression string) *policy.Rule {
	return &policy.Rule{Action: action, Selector: &policy.Selector{Identifier: expression, MatchType: policy.MatchType_REGEX}}
}

// sourcePolicy is the policy of a whole build: the client's folders, and the images that the guard has named. What is
// fetched by URL is up to the policy of the Dockerfile. Engines before 23.0 have none.
func (c *call) sourcePolicy() *policy.Policy {
	if !c.engine.version.atLeast("1.42") {
		return nil
	}
	alias := regexp.QuoteMeta(c.aliasPrefix())
	return &policy.Policy{Version: 1, Rules: []*policy.Rule{
		regexRule(policy.PolicyAction_DENY, `^`),
		regexRule(policy.PolicyAction_ALLOW, `^local://`),
		regexRule(policy.PolicyAction_ALLOW, `^https?://`),
		regexRule(policy.PolicyAction_ALLOW, `^docker-image://`+alias+`[0-9a-f]{64}(@sha256:[0-9a-f]{64})?$`),
	}}
}

// urlPolicy allows what a Dockerfile fetches by URL, as it was checked, and nothing else.
func (c *call) urlPolicy(f *checkedFile) *policy.Policy {
	if !c.engine.version.atLeast("1.42") {
		return nil
	}
	rules := []*policy.Rule{regexRule(policy.PolicyAction_DENY, `^(https?|git)://`)}
	for _, r := range f.remotes {
		rules = append(rules, regexRule(policy.PolicyAction_ALLOW, `^`+regexp.QuoteMeta(r.URL)+`$`))
	}
	return &policy.Policy{Version: 1, Rules: rules}
}

/** What `sfc evaluate --help` says after its flags. */
export const evaluateHelp = `A circuit is a set of features. It is faithful if the model still shows the behaviour when everything else at the sites looked at is ablated:
faithfulness is 1 for the whole model and 0 for none of it. It is complete if the model without it no longer shows the behaviour: completeness near 0.

Ways to choose features, on train pairs alone, with commas between them:
  mask-ig          by effects on the way from everything ablated to the whole model
  masks            learned: the features that come closest to the whole model, by gradient descent on masks
  secant, analytic, … by a method's effects, the largest first
  secant-covering  every site covered alike
  secant-signed    only features that support the clean answer
To measure them by:
  random           three random circuits of features that are active as often as those of the first way, or of --circuit
  basis            single numbers of the activations instead of features, by their secant effects
  neurons          with --sites mlp_out: the neurons that MLP outputs are made of, by their secant effects

With --ablate, --scale or --set no circuit is measured: these features are changed at every token of the clean prompts, all else left as the model
computes it, and the metric and the most probable next tokens are shown before and after.

Examples:
  sfc evaluate outputs/demo-agreement-0
  sfc evaluate outputs/demo-agreement-0 --by construction --sizes 20,40,60,100 --transfer 60
  sfc evaluate outputs/demo-agreement-0 --ablation mean,patch,zero --ways masks,secant --cases nounpp_singular,nounpp_plural
  sfc evaluate outputs/demo-agreement-0 --circuit outputs/demo-agreement-0/circuit/circuit.json
  sfc evaluate outputs/demo-agreement-0 --ablate resid_post.2/1035 --set resid_post.3/43=2.5`;

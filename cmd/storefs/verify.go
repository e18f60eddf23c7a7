package main

import (
	"context"
	"fmt"
	"io"

	"storefs/daemon"
)

type verifyCmd struct {
	CheckContents bool `help:"Read everything and compare its hash and the mode, time, owner, attributes and links of each file, instead of looking only whether it is there."`
	Repair        bool `help:"Build what is damaged again, if a derivation is known that makes it, and copy what has only another mode, time, owner, attribute or link."`
}

func (*verifyCmd) Help() string {
	return `Compares the database with what is there, and prints what is wrong, one problem a line. If all is well, a line on standard error says of how many paths. Ends with status 1 if something is wrong and was not repaired.`
}

func (c *verifyCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "verify"}, func(client *daemon.Client) error {
		problems := []daemon.Damage{}
		o := daemon.VerifyOptions{Contents: c.CheckContents, Repair: c.Repair}
		sum, err := client.Verify(ctx, o, func(d daemon.Damage) { problems = append(problems, d) })
		if err != nil {
			return err
		}
		result := struct {
			daemon.Verified
			Found []daemon.Damage `json:"found"`
		}{sum, problems}
		err = a.print(result, func(w io.Writer) {
			for _, d := range problems {
				repaired := ""
				if d.Repaired {
					repaired = " (repaired)"
				}
				fmt.Fprintf(w, "%s: %s%s\n", d.Path, d.Problem, repaired)
			}
		})
		if left := sum.Problems - sum.Repaired; err == nil && left > 0 {
			return fmt.Errorf("verify: %s in %s", count(left, "problem"), count(sum.Paths, "path"))
		}
		switch {
		case err != nil:
		case sum.Problems == 0:
			fmt.Fprintf(a.stderr, "storefs: %s, no problems\n", count(sum.Paths, "path"))
		default:
			fmt.Fprintf(a.stderr, "storefs: %s, %s repaired\n", count(sum.Paths, "path"), count(sum.Repaired, "problem"))
		}
		return err
	})
}

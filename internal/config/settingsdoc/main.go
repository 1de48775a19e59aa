// Command settingsdoc writes the reference of all settings to the file named
// by its argument.
package main

import (
	"log"
	"os"

	"signalbox/internal/config"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: settingsdoc FILE")
	}
	if err := os.WriteFile(os.Args[1], []byte(config.Markdown()), 0o644); err != nil {
		log.Fatal(err)
	}
}
